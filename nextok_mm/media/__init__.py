"""What goes in and comes out: one file a medium. What comes in is untrusted; nothing is silently replaced."""
