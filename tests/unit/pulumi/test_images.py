"""Where the builds find a site's certificates."""

from pathlib import Path

import pytest
from lookingglass import images
from lookingglass.settings import SettingsError

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "ca"
    directory.mkdir()
    monkeypatch.setattr(images, "SITE_CA", directory)
    return directory


def test_stacks_of_one_working_tree_leave_each_others_certificates_alone(staged: Path, tmp_path: Path) -> None:
    bundles = [tmp_path / "one.pem", tmp_path / "two.pem"]
    for bundle in bundles:
        bundle.write_text(PEM.format(bundle.stem))
    names = [images.stage_ca_bundle(str(bundle)) for bundle in bundles]
    assert images.stage_ca_bundle(None) is None
    assert [(staged / f"{name}.crt").read_text() for name in names] == [bundle.read_text() for bundle in bundles]
    assert images.stage_ca_bundle(str(bundles[0])) == names[0]
    assert len(list(staged.iterdir())) == len(bundles)


@pytest.mark.parametrize("content", [None, "not a certificate", ""])
def test_a_bundle_that_holds_none_is_refused(staged: Path, tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(SettingsError, match="no file of PEM certificates"):
        images.stage_ca_bundle(str(bundle))
    assert not list(staged.iterdir())
