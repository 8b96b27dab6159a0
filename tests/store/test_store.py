"""Assets are whole or absent, found by digest, and survive a kill at any moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from pilothouse.core.errors import UserError
from pilothouse.store import database, doctor, schema
from pilothouse.store.store import Store


def test_the_same_content_is_the_same_asset(store: Store) -> None:
    one = store.add_asset("rows", "a", {"x.txt": b"1", "y/z.txt": b"2"}, meta={"k": 1})
    two = store.add_asset("rows", "b", {"y/z.txt": b"2", "x.txt": b"1"}, meta={"k": 1})
    assert one.digest == two.digest and len(store.assets()) == 1
    assert store.add_asset("rows", "a", {"x.txt": b"1"}).digest != one.digest


def test_an_asset_is_found_by_every_kind_of_reference(store: Store) -> None:
    asset = store.add_asset("model", "m", {"x": b"1"})
    for ref in (asset.ref, asset.digest, asset.digest[:8], "model:m"):
        assert store.asset(ref) == asset
    for bad in ("model:absent", "abc", "000000000000", "model:m@ffffffffffff"):
        with pytest.raises(UserError):
            store.asset(bad)


def test_its_folder_holds_the_files_under_their_names(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    source.write_bytes(os.urandom(3_000_000))
    asset = store.add_asset("model", "m", {"sub/big.bin": source})
    assert (store.folder(asset) / "sub/big.bin").read_bytes() == source.read_bytes() == store.read(asset, "sub/big.bin")


def test_move_takes_the_source_and_copy_leaves_it(store: Store, tmp_path: Path) -> None:
    taken, left = tmp_path / "taken", tmp_path / "left"
    taken.write_bytes(b"t")
    left.write_bytes(b"l")
    store.add_asset("model", "m", {"f": taken}, move=True)
    store.add_asset("model", "n", {"f": left})
    assert not taken.exists() and left.exists()


def test_migrations_build_exactly_the_tables_that_the_code_knows(store: Store) -> None:
    inspector = sa.inspect(store.engine)
    for table in schema.metadata.sorted_tables:
        built = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table.name)}
        wanted = {c.name: (str(c.type.compile(store.engine.dialect)), bool(c.nullable)) for c in table.columns}
        assert built == wanted, table.name
        assert {i["name"] for i in inspector.get_indexes(table.name)} == {i.name for i in table.indexes}


def test_a_store_of_a_newer_version_is_refused_untouched(store: Store) -> None:
    with store.engine.begin() as c:
        c.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(UserError, match="newer Pilothouse"):
        database.connect(str(store.engine.url))


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pilothouse.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        Store.open(tmp_path)


def test_kill_9_while_writing_leaves_no_half_asset_and_doctor_cleans(tmp_path: Path) -> None:
    home = tmp_path / "home"
    code = f"""
import os
from pathlib import Path
from pilothouse.store.store import Store
store = Store.open(Path({str(home)!r}))
print("ready", flush=True)
i = 0
while True:
    i += 1
    store.add_asset("rows", "r", {{"a": os.urandom(2_000_000), "b": os.urandom(2_000_000)}}, meta={{"i": i}})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline().strip() == b"ready"
    time.sleep(0.4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with_rest = Store.open(home)
    remarks = doctor.check(with_rest, deep=True)
    assert not [r for r in remarks if r.state == "broken"]
    named = {f.sha256 for a in with_rest.assets() for f in a.files}
    assert {p.name for p in with_rest.files.every()} == named
    assert not list(with_rest.files.tmp.glob("*"))
    for asset in with_rest.assets():
        assert all((with_rest.folder(asset) / f.path).stat().st_size == f.size for f in asset.files)
    with_rest.close()


def test_doctor_names_a_changed_file_and_a_missing_one(store: Store) -> None:
    asset = store.add_asset("rows", "r", {"a": b"1", "b": b"2"})
    changed, missing = (store.files.path(f.sha256) for f in asset.files)
    changed.chmod(0o644)
    changed.write_bytes(b"other")
    missing.unlink()
    broken = [r.what for r in doctor.check(store, deep=True) if r.state == "broken"]
    assert len(broken) == 2 and all(asset.ref in b for b in broken)
    with pytest.raises(UserError, match="pilothouse doctor"):
        store.folder(asset)
