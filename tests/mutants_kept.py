"""Faults in what is kept and served: see `mutants`."""

CHECKPOINT = "tests/training/test_checkpoint.py::"
SERVING = "tests/serve/test_recommender.py::"
EXPORT = "tests/serve/test_export.py::"
VECTORS = "tests/serve/test_vectors.py::"
RETRIEVAL = "tests/index/test_search.py::"

MUTANTS = [
    # Which checkpoint is taken.
    (
        "recall_jax/training/checkpoint.py",
        'sorted(parent.glob("[0-9]*-step-*[0-9]"), reverse=True)',
        'sorted(parent.glob("[0-9]*-step-*[0-9]"))',
        CHECKPOINT + "test_two_latest_and_one_best_are_kept",
    ),
    (
        "recall_jax/training/checkpoint.py",
        "earlier = [path for path in others if _step(path) < step]",
        "earlier = [path for path in others if _step(path) <= step]",
        CHECKPOINT + "test_a_step_saved_again_replaces_it_and_what_came_after",
    ),
    (
        "recall_jax/training/checkpoint.py",
        "set(earlier[: KEPT[parent.name] - 1])",
        "set(earlier[: KEPT[parent.name]])",
        CHECKPOINT + "test_two_latest_and_one_best_are_kept",
    ),
    (
        "recall_jax/training/checkpoint.py",
        'serial = int(others[0].name.split("-")[0]) + 1 if others else 0',
        "serial = 0",
        CHECKPOINT + "test_two_latest_and_one_best_are_kept",
    ),
    (
        "recall_jax/training/checkpoint.py",
        "if files.sha256_of(path / name) != sha256:",
        "if not files.sha256_of(path / name):",
        CHECKPOINT + "test_a_flipped_bit_is_seen",
    ),
    # Recommendations.
    (
        "recall_jax/serve/recommender.py",
        'gone = np.unique(met) - 1 if seen == "removed"',
        'gone = np.unique(met) if seen == "removed"',
        SERVING + "test_a_known_user_is_asked_with_all_that_he_met_which_is_removed",
    ),
    (
        "recall_jax/serve/recommender.py",
        'gone = np.unique(met) - 1 if seen == "removed"',
        'gone = np.unique(met) - 1 if seen == "kept"',
        SERVING + "test_seen_items_are_removed_or_kept",
    ),
    (
        "recall_jax/serve/recommender.py",
        'seen = self.served.seen if seen == "auto" else seen',
        'seen = "removed" if seen == "auto" else seen',
        SERVING + "test_seen_items_are_removed_or_kept",
    ),
    (
        "recall_jax/serve/recommender.py",
        "*self._listed(met - 1, met)[:2],",
        "*self._listed(met, met)[:2],",
        SERVING + "test_a_known_user_is_asked_with_all_that_he_met_which_is_removed",
    ),
    (
        "recall_jax/serve/recommender.py",
        "read = min(len(met), self.served.history_length)",
        "read = max(len(met), self.served.history_length)",
        SERVING + "test_a_known_user_is_asked_with_all_that_he_met_which_is_removed",
    ),
    (
        "recall_jax/serve/recommender.py",
        "answer = self._unit_index.search(self._unit[[row]], k, itself)",
        "answer = self._index.search(self._unit[[row]], k, itself)",
        SERVING + "test_a_long_vector_makes_no_item_more_similar",
    ),
    (
        "recall_jax/serve/recommender.py",
        "itself = search.Exclude(np.array([0, 1]), np.array([row], np.int32))",
        "itself = search.Exclude(np.array([0, 0]), np.array([], np.int32))",
        SERVING + "test_similar_items_are_those_of_the_largest_cosine_without_itself",
    ),
    (
        "recall_jax/serve/recommender.py",
        'rows = np.argsort(-count, kind="stable")',
        'rows = np.argsort(count, kind="stable")',
        SERVING + "test_of_whom_nothing_is_known_gets_the_popular_items_and_is_told",
    ),
    (
        "recall_jax/serve/recommender.py",
        "elif row > self.served.trained_users and self.served.reads_user:",
        "elif row > len(self.served.user_ids) and self.served.reads_user:",
        SERVING
        + "test_a_user_without_training_events_is_asked_by_his_history_not_by_his_id",
    ),
    (
        "recall_jax/serve/recommender.py",
        "popularity=exported.popularity[1:],",
        "popularity=exported.popularity[:-1],",
        SERVING
        + "test_an_export_serves_known_users_by_their_columns_and_new_ones_by_theirs",
    ),
    # Exports.
    (
        "recall_jax/serve/reader.py",
        "kept = kept[kept != 0][-length:]",
        "kept = kept[kept != 0][:length]",
        EXPORT + "test_of_a_long_history_the_last_items_are_taken",
    ),
    (
        "recall_jax/serve/reader.py",
        'scaled = (raw - column["mean"]) / column["scale"]',
        'scaled = raw / column["scale"]',
        EXPORT + "test_a_number_is_scaled_by_the_mean_and_deviation_of_training",
    ),
    (
        "recall_jax/files.py",
        'if "sha256" in wanted and wanted["sha256"] != sha256_of(path):',
        'if "sha256" in wanted and wanted["sha256"] == "":',
        EXPORT + "test_a_changed_or_missing_file_is_refused",
    ),
    (
        "recall_jax/files.py",
        "return before if before.exists() and not folder.exists() else folder",
        "return folder",
        EXPORT + "test_an_export_between_two_renames_is_still_found",
    ),
    (
        "recall_jax/files.py",
        'if not isinstance(entries, dict) or manifest.get("what", what) != what:',
        "if not isinstance(entries, dict):",
        "tests/index/test_kinds.py::test_an_index_takes_no_exports_place",
    ),
    (
        "recall_jax/run/open.py",
        "towers.history_ends(data, users),",
        "data.offsets[users].astype(np.int32),",
        "tests/run/test_open.py::test_vectors_are_those_of_the_export",
    ),
    (
        "recall_jax/types.py",
        "return least <= x <= most and above < x < below",
        "return least <= x <= most and above <= x < below",
        "tests/run/test_config.py::test_every_field_refuses_what_its_rule_does_not_allow",
    ),
    # Search.
    (
        "recall_jax/index/topk.py",
        'scores = scores.at[pairs].set(-jnp.inf, mode="drop")\n    values, ids',
        'scores = scores.at[pairs].add(-1.0, mode="drop")\n    values, ids',
        RETRIEVAL + "test_everything_excluded_gives_nothing",
    ),
    (
        "recall_jax/index/topk.py",
        "falling, ids = jax.lax.sort((-values, ids), num_keys=2)",
        "falling, ids = jax.lax.sort((-values, -ids), num_keys=2)",
        RETRIEVAL + "test_many_ties",
    ),
]
