import ast

import pytest

from napari_smarttem.acquisition.script import as_python
from napari_smarttem.schema import BadInput


def test_the_script_says_what_differs_and_nothing_else():
    text = as_python({"points": 7, "chooser": "clusters", "chooser_settings": {"clusters": 3}, "propose_first": False})
    tree = ast.parse(text)
    settings = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "settings"
    )
    assert settings == {"points": 7, "chooser": "clusters", "chooser_settings": {"clusters": 3}}
    assert len(text.splitlines()) <= 14
    with pytest.raises(BadInput):
        as_python({"chooser": "magic"})


def test_the_script_runs(tmp_path, capsys):
    engine = pytest.importorskip("napari_smarttem.engine.session")
    run = tmp_path / "again.smarttem"
    text = as_python(
        {"points": 6, "chooser": "grid", "overview_shape": [32, 32], "exposure_s": 0.01},
        "simulator",
        {"specimen": "core-shell", "seed": 3, "speed": None},
        folder=str(run),
    )
    exec(compile(text, "script", "exec"), {})
    assert "finished" in capsys.readouterr().out
    assert run.is_dir()
    assert engine is not None
