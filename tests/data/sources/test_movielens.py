"""MovieLens files: what they become, and that a damaged one is named, never a crash."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import urllib.request
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recall_jax.data.sources import movielens
from recall_jax.types import InputError

RATINGS = b"""1::10::5::978300760
2::20::3::978302109
1::30::4::978300760
2::10::1::978301968
"""
FILES_1M = {
    "ratings.dat": RATINGS,
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072-1\n3::M::25::0::T8H1N\n",
    "movies.dat": (
        "10::Toy Story (1995)::Animation|Children's|Comedy\n"
        "30::Misérables, Les (1958)::Drama\n"
        "40::Heat::Action\n"
    ).encode("latin-1"),
}
NO_FLAGS = "|0" * 19
FILES_100K = {
    "u.data": b"196\t242\t3\t881250949\n22\t377\t1\t878887116\n22\t267\t5\t878887116\n",
    "u.user": b"196|49|M|writer|55105\n22|25|F|executive|40206\n",
    "u.item": (
        f"242|Kolya (1996)|24-Jan-1997||http://kolya|0|0|0|0|0|1{'|0' * 12}|1\n"
        f"267|unknown||||1{'|0' * 18}\n"
        f"377|Heavyweights (1994)|||u{NO_FLAGS}\n"
    ).encode("latin-1"),
}
REAL = pathlib.Path(
    os.environ.get("RECALL_DATA_DIR")
    or pathlib.Path(__file__).parents[3] / "../shared/data"
)


def write(folder: pathlib.Path, files: dict[str, bytes]) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text)
    return str(folder)


def write_zip(path: pathlib.Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"ml-1m/{name}", text)
            archive.writestr(f"__MACOSX/ml-1m/._{name}", b"not this one")
    return str(path)


def load(place: str, *, name: str = "1m", num_ratings: int = 0):
    return movielens.Config(name=name, dir=place, num_ratings=num_ratings).load()


def load_with(folder: pathlib.Path, **changed: bytes):
    """Loads the small 1M set with some of its files changed, named without .dat."""
    changes = {f"{name}.dat": text for name, text in changed.items()}
    return load(write(folder, FILES_1M | changes))


def without_places(monkeypatch, cache: pathlib.Path) -> None:
    monkeypatch.delenv("RECALL_DATA_DIR", raising=False)
    monkeypatch.setenv("RECALL_CACHE_DIR", str(cache))


# What the files become.


def test_reads_events_in_file_order(tmp_path):
    log = load(write(tmp_path, FILES_1M))
    assert log.users.id[log.user].tolist() == [1, 2, 1, 2]
    assert log.items.id[log.item].tolist() == [10, 20, 30, 10]
    assert log.time.tolist() == [978300760, 978302109, 978300760, 978301968]
    assert log.events["rating"].tolist() == [5, 3, 4, 1]
    assert (log.user.dtype, log.item.dtype) == (np.int32, np.int32)
    assert (log.time.dtype, log.events["rating"].dtype) == (np.int64, np.float32)
    assert log.source == f"MovieLens 1m, {tmp_path}"


def test_reads_features_and_leaves_those_of_unlisted_movies_unknown(tmp_path):
    log = load(write(tmp_path, FILES_1M))
    users, items = log.users.columns, log.items.columns
    assert log.users.id.tolist() == [1, 2, 3]
    assert users["gender"].tolist() == ["F", "M", "M"]
    assert users["age"].tolist() == ["1", "56", "25"]
    assert users["occupation"].tolist() == ["10", "16", "0"]
    assert users["zip"].tolist() == ["48067", "70072-1", "T8H1N"]
    assert log.items.id.tolist() == [10, 30, 40, 20]
    assert items["year"].tolist() == [1995, 1958, 0, 0]
    genres = ["Animation", "Children's", "Comedy", "Drama", "Action"]
    assert items["genres"].values.tolist() == genres
    assert items["genres"].offsets.tolist() == [0, 3, 4, 5, 5]
    assert items["first_genre"].tolist() == ["Animation", "Drama", "Action", ""]
    titles = ["Toy Story (1995)", "Misérables, Les (1958)", "Heat", ""]
    assert log.items.text["title"].tolist() == titles


def test_reads_100k_with_the_columns_of_1m(tmp_path):
    log = load(write(tmp_path, FILES_100K), name="100k")
    assert log.users.id[log.user].tolist() == [196, 22, 22]
    assert log.items.id[log.item].tolist() == [242, 377, 267]
    assert log.users.columns["age"].tolist() == ["45", "25"]
    assert log.users.columns["occupation"].tolist() == ["writer", "executive"]
    assert log.items.columns["genres"].values.tolist() == [
        "Comedy",
        "Western",
        "unknown",
    ]
    assert log.items.columns["genres"].offsets.tolist() == [0, 2, 3, 3]
    assert log.items.columns["year"].tolist() == [1997, 0, 1994]


def test_a_zip_reads_as_its_folder_does(tmp_path):
    folder = load(write(tmp_path / "folder", FILES_1M))
    archive = load(write_zip(tmp_path / "ml-1m.zip", FILES_1M))
    np.testing.assert_array_equal(folder.item, archive.item)
    np.testing.assert_array_equal(
        folder.items.text["title"], archive.items.text["title"]
    )


@pytest.mark.parametrize(
    "ratings",
    [
        RATINGS.replace(b"\n", b"\r\n"),
        RATINGS.removesuffix(b"\n"),
        RATINGS + b"\n\n",
        RATINGS.replace(b"1::10", b"01::010"),
    ],
    ids=["windows", "no last newline", "blank end", "leading zeros"],
)
def test_harmless_differences_read_alike(tmp_path, ratings):
    log = load_with(tmp_path, ratings=ratings)
    assert log.items.id[log.item].tolist() == [10, 20, 30, 10]


def test_the_array_parser_agrees_with_the_line_parser():
    table = movielens.LAYOUTS["1m"].tables[0]
    fast = movielens.parse_digits(RATINGS, separator=b"::")
    slow = movielens.parse_lines(RATINGS, table=table, path="ratings.dat")
    np.testing.assert_array_equal(fast, np.array(slow, np.int64))


def test_loads_with_numpy_alone(tmp_path):
    write(tmp_path, FILES_1M)
    code = (
        "import sys; from recall_jax.data.sources import movielens as m; "
        f"m.Config(dir={str(tmp_path)!r}, num_ratings=0).load(); "
        "print({'polars', 'pandas', 'tensorflow', 'tensorflow_datasets'} "
        "& set(sys.modules))"
    )
    root = pathlib.Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "set()", run.stderr


# What is wrong is named.


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        (RATINGS[:-12], "line 4 of 4: 3 fields instead of 4 in '2::10::1'"),
        (RATINGS[:-5], "line 4 of 4: unix time should be in .*, is '97830'"),
        (RATINGS[:-23], "line 3 of 3: unix time should be in .*, is '9783007'"),
        (RATINGS.replace(b"::", b","), "line 1 of 4: 1 fields instead of 4"),
        (RATINGS.replace(b"::", b"\t"), "line 1 of 4: 1 fields instead of 4"),
        (RATINGS.replace(b"::", b":"), "line 1 of 4: 1 fields instead of 4"),
        (RATINGS.replace(b"::3::", b"::6::"), r"line 2 .*rating .*1\.\.5, is '6'"),
        (RATINGS.replace(b"::3::", b"::3.5::"), r"line 2 .*rating .*is '3\.5'"),
        (RATINGS.replace(b"2::20", b"-2::20"), "line 2 of 4: user .*is '-2'"),
        (RATINGS.replace(b"2::20", b"2::0"), "line 2 of 4: movie .*is '0'"),
        (RATINGS.replace(b"2::20", b"2::"), "line 2 of 4: movie .*is ''"),
        (RATINGS.replace(b"2::20", b"2::x\xe9"), "line 2 of 4: movie .*is 'xé'"),
        (RATINGS.replace(b"2::20", b"2::" + b"9" * 5000), "line 2 of 4: movie"),
        (b"5::978300760::1::10\n", "line 1 of 1: rating|unix time"),
        (b"978300760::1::10::5\n", "line 1 of 1: rating"),
        (b"1::2::3::4::5::978300760\n1::2\n", "line 1 of 2: 6 fields instead of 4"),
        (b"PK\x03\x04\x00\xff\n\x9f::\x00", "line 1 of 2: 1 fields"),
        (b"", "ratings.dat is empty"),
        (b"\r\n\n", "ratings.dat is empty"),
    ],
)
def test_names_the_line_and_the_field_of_a_damaged_ratings_file(
    tmp_path, ratings, said
):
    with pytest.raises(InputError, match=said) as caught:
        load_with(tmp_path, ratings=ratings)
    assert "ratings.dat" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("users", b"1::F::1::10\n", "users.dat, line 1 of 1: 4 fields instead of 5"),
        ("users", b"1::1::F::10::1\n", "users.dat, line 1 of 1: age .*is 'F'"),
        (
            "users",
            b"7::F::1::10::1\n2::F::1::1::1\n7::M::18::1::2\n",
            "users.dat, line 3: user 7 a second time",
        ),
        ("users", b" \n", "users.dat is empty"),
        ("movies", b"10::Heat\n", "movies.dat, line 1 of 1: 2 fields instead of 3"),
        ("movies", b"Heat::10::Drama\n", "movies.dat, line 1 of 1: movie .*'Heat'"),
        ("movies", b"1::a::b\n1::a::b\n", "movies.dat, line 2: movie 1 a second"),
    ],
)
def test_names_the_line_of_a_damaged_users_or_movies_file(tmp_path, name, text, said):
    with pytest.raises(InputError, match=said):
        load_with(tmp_path, **{name: text})


def test_says_both_numbers_when_rows_are_missing(tmp_path):
    write(tmp_path, FILES_1M)
    with pytest.raises(InputError, match=r"has 4 rating rows, expected 1,000,209"):
        movielens.Config(dir=str(tmp_path)).load()
    with pytest.raises(InputError, match=r"has 4 rating rows, expected 5.*ings=4"):
        load(str(tmp_path), num_ratings=5)
    assert len(load(str(tmp_path), num_ratings=4)) == 4


def test_a_movie_file_that_does_not_fit_is_refused(tmp_path):
    rows = b"".join(b"%d::%d::5::978300760\n" % (i, 1000 + i) for i in range(1, 31))
    with pytest.raises(InputError, match="30 of 30 ratings are of movies"):
        load_with(tmp_path, ratings=rows)


@pytest.mark.parametrize("missing", list(FILES_1M))
def test_names_the_file_that_is_not_there(tmp_path, missing):
    files = {name: text for name, text in FILES_1M.items() if name != missing}
    with pytest.raises(InputError, match=f"has no {missing}"):
        load(write(tmp_path / "folder", files))
    with pytest.raises(InputError, match=f"has no {missing}"):
        load(write_zip(tmp_path / "some.zip", files))


def test_what_cannot_be_read_is_an_input_error(tmp_path):
    (tmp_path / "folder" / "ratings.dat").mkdir(parents=True)
    with pytest.raises(InputError, match="could not be read"):
        load(str(tmp_path / "folder"))
    text = tmp_path / "text.zip"
    text.write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"text.zip could not be read.*BadZipFile"):
        load(str(text))
    archive = pathlib.Path(write_zip(tmp_path / "cut.zip", FILES_1M))
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match="cut.zip could not be read"):
        load(str(archive))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        InputError, match="--config.data.name '20m'; there are: 1m, 100k"
    ):
        load("anywhere", name="20m")


def assert_valid(log):
    assert len(log.user) == len(log.item) == len(log.time) > 0
    assert log.user.max() < len(log.users) and log.item.max() < len(log.items)
    assert set(log.events["rating"].tolist()) <= {1, 2, 3, 4, 5}


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, len(RATINGS)),
    length=st.integers(0, 30),
    patch=st.one_of(st.binary(max_size=8), st.text("0123456789:\n\r\t -.", max_size=8)),
)
@example(at=0, length=len(RATINGS), patch=b"")
@example(at=0, length=len(RATINGS), patch="1::2::3::999999999\n\n1::2::3::999999999")
def test_damage_to_ratings_gives_a_log_or_an_input_error(at, length, patch):
    patch = patch if isinstance(patch, bytes) else patch.encode()
    damaged = RATINGS[:at] + patch + RATINGS[at + length :]
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert_valid(load_with(pathlib.Path(folder), ratings=damaged))
        except InputError as error:
            assert "ratings.dat" in str(error)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_to_a_zip_gives_a_log_or_an_input_error(data):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(write_zip(pathlib.Path(folder) / "ml.zip", FILES_1M))
        text = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(
                st.integers(0, 255)
            )
        path.write_bytes(text)
        try:
            assert_valid(load(str(path)))
        except InputError:
            pass


# Where the files are looked for.


def test_a_missing_folder_lists_the_three_ways(tmp_path):
    with pytest.raises(InputError) as caught:
        load(str(tmp_path / "nowhere"))
    for way in ("nowhere", "--config.data.dir=", "RECALL_DATA_DIR=", "network"):
        assert way in str(caught.value)


@pytest.mark.parametrize("write_to", [write, write_zip])
def test_the_variable_is_looked_at_before_any_download(tmp_path, monkeypatch, write_to):
    name = "ml-1m" if write_to is write else "ml-1m.zip"
    place = write_to(tmp_path / name, FILES_1M)
    monkeypatch.setenv("RECALL_DATA_DIR", str(tmp_path))
    assert load("").source == f"MovieLens 1m, {place}"


def test_the_download_is_made_once_and_kept(tmp_path, monkeypatch):
    calls = []

    class Manager:
        def __init__(self, *, download_dir, force_checksums_validation):
            assert force_checksums_validation
            self.folder = pathlib.Path(download_dir)

        def download(self, url):
            calls.append(url)
            return write_zip(self.folder / "odd_name.zip", FILES_1M)

    tfds = pytest.importorskip("tensorflow_datasets.core.download")
    monkeypatch.setattr(tfds, "DownloadManager", Manager)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "a proxy"})
    without_places(monkeypatch, tmp_path / "cache")
    for _ in range(2):
        assert len(load("")) == 4
    assert calls == ["https://files.grouplens.org/datasets/movielens/ml-1m.zip"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ml-1m.zip"]


def test_the_checksums_of_both_downloads_are_registered():
    checksums = pytest.importorskip("tensorflow_datasets.core.download.checksums")
    registered = checksums.get_all_url_infos()
    for layout in movielens.LAYOUTS.values():
        assert movielens.URL.format(layout.folder) in registered


def test_without_a_network_the_three_ways_are_listed_at_once(tmp_path, monkeypatch):
    def refuse(address, timeout):
        raise OSError(f"no route to {address[0]}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    without_places(monkeypatch, tmp_path / "cache")
    with pytest.raises(InputError, match="no route to files.grouplens.org") as caught:
        load("")
    for way in ("--config.data.dir=", "RECALL_DATA_DIR=", "not set", "network"):
        assert way in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_tensorflow_datasets_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.core.download", None)
    without_places(monkeypatch, tmp_path)
    with pytest.raises(InputError, match="pip install tensorflow-datasets"):
        load("")


# The real files.


def real(name: str) -> str:
    if not (REAL / name).is_dir():
        pytest.skip(f"no {REAL / name}: set RECALL_DATA_DIR to a folder that holds it")
    return str(REAL / name)


def test_reads_the_whole_of_1m():
    log = movielens.Config(dir=real("ml-1m")).load()
    assert (len(log), len(log.users), len(log.items)) == (1_000_209, 6_040, 3_883)
    assert len(np.unique(log.item)) == 3_706
    first = log.users.id[log.user[0]], log.items.id[log.item[0]], log.time[0]
    assert first == (1, 1193, 978300760)
    assert not (log.items.columns["year"] == 0).any()
    assert len(np.unique(log.items.columns["genres"].values)) == 18


def test_reads_the_whole_of_100k():
    log = movielens.Config(name="100k", dir=real("ml-100k")).load()
    assert (len(log), len(log.users), len(log.items)) == (100_000, 943, 1_682)
    assert log.items.id[log.item[:3]].tolist() == [242, 302, 377]
    assert (log.items.columns["year"] == 0).sum() == 1  # its movie 267 is 'unknown'
