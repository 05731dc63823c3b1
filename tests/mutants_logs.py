"""Faults in the reading of logs that quick tests catch: (file, text, replacement, tests)."""

TEXTS = "tests/data/sources/test_text_files.py::"
TIMES = "tests/data/sources/test_times.py::"
STRANGE = "tests/data/sources/test_strange_logs.py::"
VALUES = "tests/data/sources/test_values.py::"
DUPLICATES = "tests/data/test_duplicates.py::"
LOOP = "tests/training/test_loop.py::"
CONFIG = "tests/run/test_config.py::"
DESCRIBE = "tests/data/test_describe.py::"
STREAM = "tests/data/test_prepared.py::"

MUTANTS = [
    (
        "recall_jax/data/sources/shards.py",
        '        paths = [p for p in place.rglob("*") if not is_hidden(p.relative_to(place))]\n',
        '        paths = list(place.rglob("*"))\n',
        STRANGE + "test_hidden_files_are_no_part_of_a_log",
    ),
    (
        "recall_jax/data/sources/shards.py",
        'unit = next(x for x in ("ns", "us", "ms") if x in {k.time_unit for k in kinds})',
        'unit = next(x for x in ("ms", "us", "ns") if x in {k.time_unit for k in kinds})',
        STRANGE + "test_types_of_shards_lose_nothing",
    ),
    (
        "recall_jax/data/sources/text_files.py",
        "        if stop < 0 and not rows.left:\n",
        "        if stop < 0:\n",
        TEXTS + "test_whatever_pythons_csv_writes_comes_back",
    ),
    (
        "recall_jax/data/sources/text_files.py",
        "delimiter=self.file.separator, strict=True))",
        "delimiter=self.file.separator))",
        TEXTS + "test_what_is_wrong_with_a_file_is_said_with_its_line",
    ),
    (
        "recall_jax/data/sources/text_files.py",
        "    if not (np.isin(before, apart) & np.isin(after, apart)).all():\n",
        "    if not len(before):\n",
        TEXTS + "test_odd_quotes_are_read_as_python_reads_them_or_refused",
    ),
    (
        "recall_jax/data/split.py",
        "for x in (log.user, log.time, log.nanoseconds) if",
        "for x in (log.user, log.time) if",
        STRANGE + "test_order_within_a_second_is_kept",
    ),
    (
        "recall_jax/data/sources/times.py",
        '    if not raw.dtype.is_temporal() and form in ("", *TICKS):\n',
        '    if not raw.dtype.is_temporal() and form == "s":\n',
        TIMES + "test_numbers_of_another_unit_say_which[values0--time_format=ms]",
    ),
    (
        "recall_jax/data/sources/times.py",
        "    exact = raw.cast(polars.Decimal(38, 9), strict=False) * (SECOND // ticks)\n",
        "    exact = raw.cast(float, strict=False) * (SECOND // ticks)\n",
        TIMES + "test_every_digit_of_a_second_is_kept",
    ),
    (
        "recall_jax/data/sources/logs.py",
        "        exact = shards.exact(ids.dtype)\n",
        "        exact = 2**60\n",
        STRANGE + "test_types_that_hold_no_id_are_refused",
    ),
    (
        "recall_jax/data/sources/logs.py",
        "    return ids.cast(polars.UInt64)\n",
        "    return ids.cast(polars.Float64).cast(polars.UInt64)\n",
        STRANGE + "test_shards_with_and_without_a_sign_go_together",
    ),
    (
        "recall_jax/data/sources/logs.py",
        "    raw = values.cleaned(source.rows[column])\n    raw = values.as_codes(raw)",
        "    raw = values.as_codes(source.rows[column])",
        STRANGE + "test_events_without_a_session_are_each_alone[NaN]",
    ),
    (
        "recall_jax/data/sources/values.py",
        '        text = polars.col("value").cast(str).str.strip_chars()\n',
        '        text = polars.col("value").cast(str)\n',
        VALUES + "test_several_values_in_a_cell",
    ),
    (
        "recall_jax/data/sources/values.py",
        "    words = values.str.to_lowercase().is_in(MISSING)\n",
        '    words = values == ""\n',
        VALUES + "test_codes_and_words_are_categories",
    ),
    (
        "recall_jax/data/sources/entity_files.py",
        "    near = near_miss(ids.filter(missing), keys.filter(~keys.is_in(ids.implode())))\n",
        '    near = ""\n',
        VALUES + "test_case_is_a_near_miss_too",
    ),
    (
        "recall_jax/data/duplicates.py",
        "some = np.flatnonzero(likely[numbers & last])",
        "some = np.flatnonzero(likely[numbers & last])[1:]",
        DUPLICATES + "test_few_copies_among_many_rows_are_found",
    ),
    (
        "recall_jax/data/duplicates.py",
        '    times = {"time": log.time, ',
        '    times = {"time": None, ',
        DUPLICATES + "test_where_second_visits_are_common_copies_stay_unless_asked",
    ),
    (
        "recall_jax/data/duplicates.py",
        "            return self.equal if often <= RARE * self.rows else 0\n",
        "            return self.equal\n",
        DUPLICATES + "test_where_second_visits_are_common_copies_stay_unless_asked",
    ),
    (
        "recall_jax/data/duplicates.py",
        "    copies[order[1:][same]] = True\n",
        "    copies[order[:-1][same]] = True\n",
        DUPLICATES + "test_a_copy_is_a_row_that_came_before",
    ),
    (
        "recall_jax/data/duplicates.py",
        "    numbers >>= np.uint64(64 - bits)\n",
        "    numbers >>= np.uint64(bits)\n",
        DUPLICATES + "test_rows_are_counted_as_a_reader_would",
    ),
    (
        "recall_jax/data/duplicates.py",
        "stop = ends[np.searchsorted(ends, min(start + BLOCK, len(user)))]",
        "stop = min(start + BLOCK, len(user))",
        DUPLICATES + "test_rows_are_counted_as_a_reader_would",
    ),
    (
        "recall_jax/data/describe.py",
        '        name = unicodedata.normalize("NFKC", name)\n',
        "",
        DESCRIBE + "test_ids_that_may_be_one_are_named",
    ),
    (
        "recall_jax/data/coded.py",
        '                    records["time"] = moments.joined()\n',
        '                    records["time"] = moments.seconds * times.SECOND\n',
        STRANGE + "test_order_within_a_second_is_kept",
    ),
    (
        "recall_jax/data/coded.py",
        "        numbering.setdefault(name, len(numbering)) for name in distinct.to_list()\n",
        "        sorted(distinct).index(name) for name in distinct.to_list()\n",
        STREAM + "test_copies_are_dropped_on_disk_as_in_memory",
    ),
    (
        "recall_jax/data/partition.py",
        "    mask[some] = duplicates.is_copy([records[name][some] for name in names])\n",
        "    mask[some] = duplicates.is_copy([records[name][some] for name in names[:3]])\n",
        DUPLICATES + "test_an_action_tells_two_events_apart",
    ),
    (
        "recall_jax/data/log.py",
        "            if (numbers % np.uint64(1000)).any():\n",
        "            if False:\n",
        "tests/data/test_log.py::test_rows_are_ordered_as_python_sorts_them",
    ),
    (
        "recall_jax/training/loop.py",
        '                advance(0, loss=values["loss"], validation=validation)\n',
        "",
        LOOP + "test_early_stopping_keeps_the_best_and_the_last_line_has_the_last",
    ),
    (
        "recall_jax/run/config.py",
        "    unchanged = set(as_flags(default))\n",
        "    unchanged = set(as_flags(config))\n",
        CONFIG + "test_flags_that_differ_from_defaults_are_all_that_is_needed",
    ),
]
