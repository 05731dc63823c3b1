"""Faults in what figures are made of: see `mutants`."""

METRICS = "tests/evaluate/test_metrics.py::"
EVALUATE = "tests/evaluate/test_measure.py::"
SEGMENTS = "tests/evaluate/test_segments.py::"
SAMPLED = "tests/evaluate/test_sampled.py::"
BASELINES = "tests/evaluate/test_baselines.py::"
ITEMS = "tests/evaluate/test_item_item.py::"
CONVERSIONS = "tests/pairs/test_conversions.py::"
FILE_ORDER = "tests/data/test_file_order.py::"

MUTANTS = [
    # Ties, ideal lists, intervals.
    (
        "recall_jax/evaluate/metrics.py",
        "return np.where(is_listed & ~tied, ranks, MISS)",
        "return np.where(is_listed, ranks, MISS)",
        METRICS + "test_a_target_tied_with_the_last_of_a_full_list_is_a_miss",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "2 * step.cumsum(axis=1) + is_target",
        "2 * step.cumsum(axis=1) - is_target",
        METRICS + "test_a_target_ranks_last_among_its_equals",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "discount = 1 / np.log2(np.arange(k) + 2)",
        "discount = 1 / np.log2(np.arange(k) + 3)",
        METRICS + "test_values_by_hand",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "[np.minimum(_relevant(num_relevant), k) - 1]",
        "[np.full(len(ranks), k) - 1]",
        METRICS + "test_values_by_hand",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "return total / np.minimum(_relevant(num_relevant), k)",
        "return total / _relevant(num_relevant)",
        METRICS + "test_ndcg_and_map_are_ideal_over_what_k_can_hold",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "return (ranks < k).sum(axis=1) / _relevant(num_relevant)",
        "return (ranks < k).sum(axis=1) / np.minimum(_relevant(num_relevant), k)",
        METRICS + "test_examples_in_docstrings_run",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "return np.where(best < k, 1 / (best + 1), 0.0)",
        "return np.where(best <= k, 1 / (best + 1), 0.0)",
        METRICS + "test_values_by_hand",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        'up_to = np.searchsorted(negative, positive, side="right")',
        'up_to = np.searchsorted(negative, positive, side="left")',
        METRICS + "test_auc_equals_counting_pairs_with_ties_half",
    ),
    (
        "recall_jax/evaluate/metrics.py",
        "tail = (1 - level) / 2",
        "tail = 1 - level",
        METRICS + "test_interval_agrees_with_the_normal_one_for_many_users",
    ),
    # What is removed, what leaks, what is ranked.
    (
        "recall_jax/evaluate/measure.py",
        "return not (data.repeats or data.keeps_seen)",
        "return not data.repeats",
        FILE_ORDER
        + "test_every_item_of_a_user_who_stays_is_ranked_and_nothing_is_removed",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "return not (data.repeats or data.keeps_seen)",
        "return not data.keeps_seen",
        EVALUATE + "test_what_repeats_is_not_removed",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "k = min(cutoff(config) + 1, data.dataset.num_items)",
        "k = min(cutoff(config), data.dataset.num_items)",
        EVALUATE + "test_a_model_that_scores_everything_alike_gets_nothing",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1",
        "rows[:, 1:][rows[:, 1:] < 0] = -1",
        EVALUATE + "test_a_target_met_twice_counts_once",
    ),
    (
        "recall_jax/evaluate/measure.py",
        (
            "np.cumsum(part.start - begin)])\n"
            "        past = data.items[ranges(begin, part.start)]"
        ),
        (
            "np.cumsum(data.train_stop[part.user] - begin)])\n"
            "        past = data.items[ranges(begin, data.train_stop[part.user])]"
        ),
        EVALUATE + "test_metrics_equal_a_ranking_by_hand",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "(position < data.train_stop[user])",
        "(position < data.offsets[user + 1])",
        EVALUATE + "test_held_out_events_that_train_are_a_leak",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "if not inside.all() or data.popularity.sum() != trained:",
        "if not inside.all():",
        EVALUATE + "test_held_out_events_that_train_are_a_leak",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "if (part.start < data.train_stop[part.user]).any():",
        "if (part.start < data.offsets[part.user]).any():",
        EVALUATE + "test_a_target_in_the_training_part_is_a_leak",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "leaked = np.isin(rows[wanted.positions >= 0], pairs)",
        "leaked = np.isin(rows[wanted.positions >= 0], wanted.exclude.ids)",
        EVALUATE + "test_a_target_of_anothers_history_is_no_leak",
    ),
    (
        "recall_jax/evaluate/measure.py",
        "gone = 0 if exclude is None else np.diff(exclude.offsets)",
        "gone = 0",
        SAMPLED + "test_chance_is_of_the_drawn_items",
    ),
    (
        "recall_jax/evaluate/encode.py",
        "        part.start.astype(np.int32),",
        "        part.stop.astype(np.int32),",
        EVALUATE + "test_a_model_is_measured_through_every_index_alike[exact]",
    ),
    # Segments.
    (
        "recall_jax/evaluate/segments.py",
        "last = [-(-total * third // 3) - 1 for third in (1, 2)]",
        "last = [total * third // 3 - 1 for third in (1, 2)]",
        SEGMENTS + "test_what_three_do_not_divide_makes_the_lower_thirds_larger",
    ),
    (
        "recall_jax/evaluate/segments.py",
        "kind = np.searchsorted(np.sort(lengths)[last], lengths)",
        'kind = np.searchsorted(np.sort(lengths)[last], lengths, side="right")',
        SEGMENTS + "test_thirds_of_the_users_by_history_keep_equals_together",
    ),
    (
        "recall_jax/evaluate/segments.py",
        "before = np.cumsum(popularity) - popularity",
        "before = np.cumsum(popularity) - 1",
        SEGMENTS + "test_head_torso_and_tail_hold_a_third_of_the_events_each",
    ),
    (
        "recall_jax/evaluate/segments.py",
        "ranks = np.where(inside, ranks[queries], metrics.MISS)",
        "ranks = np.where(inside | True, ranks[queries], metrics.MISS)",
        SEGMENTS + "test_of_many_targets_only_those_in_the_segment_count",
    ),
    (
        "recall_jax/evaluate/segments.py",
        "lengths = part.start - data.offsets[part.user]",
        "lengths = data.train_stop[part.user] - data.offsets[part.user]",
        SEGMENTS + "test_the_history_of_a_test_query_has_validation_too",
    ),
    # Drawn candidates.
    (
        "recall_jax/evaluate/sampled.py",
        "wait[row, column] = np.inf",
        "wait[row, column] += 0",
        SAMPLED + "test_a_list_is_the_targets_and_so_many_others_that_were_not_seen",
    ),
    (
        "recall_jax/evaluate/sampled.py",
        'np.ones(num_items) if kind == "sampled_uniform" else popularity',
        'np.ones(num_items) if kind != "sampled_uniform" else popularity',
        SAMPLED + "test_one_is_drawn_with_its_share",
    ),
    # Baselines.
    (
        "recall_jax/evaluate/baselines.py",
        "last = np.where(some, data.items[np.maximum(part.start - 1, 0)], 0)",
        "last = np.where(some, data.items[data.train_stop[part.user] - 1], 0)",
        BASELINES + "test_baselines_equal_loops",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "weight = popularity.max() + 1",
        "weight = 1",
        BASELINES + "test_baselines_equal_loops",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "begin, stop = data.offsets[1:-1], data.train_stop[1:]",
        "begin, stop = data.offsets[1:-1], data.offsets[2:]",
        BASELINES + "test_test_events_never_count",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "score = data.popularity[1:].astype(np.int64)",
        "score = data.popularity[:-1].astype(np.int64)",
        BASELINES + "test_baselines_equal_loops",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        'gone = -np.inf if kind.kind == "f" else -np.iinfo(kind).max',
        "gone = kind.type(-15)",
        BASELINES
        + "test_scores_below_zero_rank_as_any_others_and_only_excluded_ones_go",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "before = data.items[part.start[some] - 1]",
        "before = data.items[part.start[some]]",
        FILE_ORDER + "test_the_constant_list_is_of_the_rows_before_the_last",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        (
            "make_item_search(ease.weights, data, data.valid)\n"
            "        measured = measure.measure_search(\n"
            "            search, data=data, part=data.valid,"
        ),
        (
            "make_item_search(ease.weights, data, data.test)\n"
            "        measured = measure.measure_search(\n"
            "            search, data=data, part=data.test,"
        ),
        ITEMS + "test_l2_is_the_best_on_validation_by_select_by_and_test_has_no_say",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "return max((Ease(l2,",
        "return min((Ease(l2,",
        ITEMS + "test_l2_is_the_best_on_validation_by_select_by_and_test_has_no_say",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "np.arange(1, len(data.train_stop)), data.train_stop[1:])",
        "np.arange(1, len(data.train_stop)), data.offsets[2:])",
        ITEMS + "test_held_out_events_never_count",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "_item_sets(data, part.user[rows], part.start[rows])",
        "_item_sets(data, part.user[rows], data.train_stop[part.user[rows]])",
        ITEMS + "test_a_score_is_the_sum_over_the_distinct_items_before_the_targets",
    ),
    (
        "recall_jax/evaluate/baselines.py",
        "rows.data[:] = 1",
        "rows.data[:] *= 1",
        ITEMS + "test_item_knn_equals_loops",
    ),
    # Conversions.
    (
        "recall_jax/pairs/conversions.py",
        "behind = self.above + self.tied",
        "behind = self.above",
        CONVERSIONS + "test_ranks_by_hand",
    ),
    (
        "recall_jax/pairs/conversions.py",
        "np.arange(len(data.items)) >= data.train_stop[user]",
        "np.arange(len(data.items)) >= data.offsets[user]",
        CONVERSIONS
        + "test_held_out_conversions_are_asked_with_what_stood_before_in_their_session",
    ),
    (
        "recall_jax/pairs/conversions.py",
        "position = position[session[position] == session[position - ago]]",
        "position = position[session[position] >= session[position - ago]]",
        CONVERSIONS + "test_a_conversion_ends_a_session_and_a_pause_too",
    ),
    (
        "recall_jax/pairs/conversions.py",
        "where[row, clicked] = False",
        "where[row, clicked] = True",
        CONVERSIONS + "test_ranks_by_hand",
    ),
]
