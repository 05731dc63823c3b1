"""Faults in how logs are split, numbered, laid out and cut: see `mutants`."""

SPLITS = "tests/data/test_split.py::"
GIVEN = "tests/data/test_given.py::"
HIDDEN = "tests/evaluate/test_new_items.py::"
DATASET = "tests/data/test_dataset.py::"
EXAMPLES = "tests/data/test_examples.py::"
EXPOSURES = "tests/data/test_exposures.py::"
FILE_ORDER = "tests/data/test_file_order.py::"
SEQUENCES = "tests/pairs/test_sequences.py::"
GRAPH = "tests/pairs/test_graph.py::"
BASELINES = "tests/evaluate/test_baselines.py::"

MUTANTS = [
    # Splits.
    (
        "recall_jax/data/log.py",
        "        log = log.select(keep)\n",
        "        return log.select(keep)\n",
        SPLITS + "test_what_the_k_core_drops_may_cost_others_their_place",
    ),
    (
        "recall_jax/data/split.py",
        "valid=np.where(long, stop - 2, stop),",
        "valid=np.where(long, stop - 1, stop),",
        SPLITS + "test_leave_one_out_by_hand",
    ),
    (
        "recall_jax/data/split.py",
        "stop, long = start[1:], np.diff(start) >= 3",
        "stop, long = start[1:], np.diff(start) > 3",
        SPLITS + "test_three_events_are_one_for_each_part",
    ),
    (
        "recall_jax/data/split.py",
        "for x in (log.user, log.time, log.nanoseconds) if",
        "for x in (log.user, log.nanoseconds) if",
        SPLITS + "test_leave_one_out_by_hand",
    ),
    (
        "recall_jax/data/split.py",
        "np.random.default_rng([seed, len(log)]).permutation(len(log))",
        "np.random.default_rng([0, len(log)]).permutation(len(log))",
        SPLITS + "test_shuffled_ties_move_ties_only_and_follow_the_seed",
    ),
    (
        "recall_jax/data/split.py",
        "np.bincount(user_of[log.time < cut]",
        "np.bincount(user_of[log.time <= cut]",
        SPLITS + "test_temporal_by_hand",
    ),
    (
        "recall_jax/data/split.py",
        "shares = [1 - test_share - valid_share, 1 - test_share]",
        "shares = [1 - test_share - valid_share, 1 - valid_share]",
        SPLITS + "test_temporal_by_hand",
    ),
    (
        "recall_jax/data/split.py",
        "np.random.default_rng([seed, len(train)]).permutation(train)",
        "np.random.default_rng([0, len(train)]).permutation(train)",
        GIVEN + "test_another_seed_cuts_other_events_and_the_same_seed_the_same",
    ),
    (
        "recall_jax/data/split.py",
        "order = np.concatenate([train, test_rows])",
        "order = np.concatenate([test_rows, train])",
        GIVEN + "test_every_user_keeps_his_events_part_by_part",
    ),
    (
        "recall_jax/data/split.py",
        "kept[last[others[log.user[last]] >= 2]] = True",
        "kept[last[others[log.user[last]] >= 1]] = True",
        HIDDEN + "test_short_users_do_not_train_on_what_is_hidden",
    ),
    (
        "recall_jax/data/split.py",
        "farthest = np.maximum(start[:-1] + 1, test - WINDOW)",
        "farthest = np.maximum(start[:-1] + 1, test - WINDOW - 1)",
        FILE_ORDER + "test_examples_are_the_200_next_to_the_test_less_the_farthest",
    ),
    (
        "recall_jax/data/split.py",
        "        keeps_seen=True,\n",
        "        keeps_seen=False,\n",
        FILE_ORDER
        + "test_every_item_of_a_user_who_stays_is_ranked_and_nothing_is_removed",
    ),
    (
        "recall_jax/data/split.py",
        "return dataclasses.replace(log.select(rows), time=None)",
        "return log.select(rows)",
        FILE_ORDER + "test_no_time_is_read",
    ),
    # Numbers of users and items, events, parts.
    (
        "recall_jax/data/prepare.py",
        "popularity=_count(flat.items[ranges(flat.start, flat.valid)], items)",
        "popularity=_count(flat.items[ranges(flat.start, flat.test)], items)",
        DATASET + "test_popularity_counts_training_events_only",
    ),
    (
        "recall_jax/data/prepare.py",
        "valid=prepared.part(flat.valid, flat.test),",
        "valid=prepared.part(flat.test, flat.offsets[2:]),",
        DATASET + "test_parts_of_leave_one_out_are_the_last_two",
    ),
    (
        "recall_jax/data/prepare.py",
        "train_stop=np.concatenate([[0], flat.valid]),",
        "train_stop=np.concatenate([[0], flat.test]),",
        BASELINES + "test_test_events_never_count",
    ),
    (
        "recall_jax/data/prepare.py",
        "times=None if log.time is None else log.time[flat.order],",
        "times=log.time,",
        DATASET + "test_times_and_weights_lie_as_the_events_do",
    ),
    (
        "recall_jax/data/prepare.py",
        "None if log.weight is None else log.weight[flat.order]",
        "log.weight",
        DATASET + "test_times_and_weights_lie_as_the_events_do",
    ),
    (
        "recall_jax/data/prepare.py",
        "events={name: take(column, flat.order) for name",
        "events={name: take(column, flat.order[::-1]) for name",
        SEQUENCES + "test_event_columns_lie_as_the_flat_items_do",
    ),
    (
        "recall_jax/data/prepare.py",
        "_count(flat.items[positive], items)",
        "_count(flat.items, items)",
        DATASET + "test_popularity_counts_training_events_only",
    ),
    (
        "recall_jax/data/prepare.py",
        "schema_lib.frequency_order(codes[in_train], num=len(entities))",
        "schema_lib.frequency_order(codes, num=len(entities))",
        DATASET
        + "test_catalogue_ids_fall_with_training_frequency_and_strangers_share_a_row",
    ),
    (
        "recall_jax/data/prepare.py",
        "weight = np.bincount(codes[in_train], minlength=len(entities))",
        "weight = np.bincount(codes, minlength=len(entities))",
        DATASET + "test_features_stand_at_their_entity",
    ),
    (
        "recall_jax/schema.py",
        'return np.argsort(-count, kind="stable"), int(np.count_nonzero(count))',
        'return np.argsort(count, kind="stable"), int(np.count_nonzero(count))',
        DATASET
        + "test_catalogue_ids_fall_with_training_frequency_and_strangers_share_a_row",
    ),
    (
        "recall_jax/schema.py",
        "inner = {value: j + 1 for j, value in enumerate(self.ids.tolist())}",
        "inner = {value: j for j, value in enumerate(self.ids.tolist())}",
        DATASET + "test_vocabularies_survive_their_file",
    ),
    (
        "recall_jax/data/prepare.py",
        "age = (time[trains].max() - time)",
        "age = (time.max() - time)",
        EXAMPLES + "test_the_age_is_the_time_to_the_end_of_training_and_0_in_use",
    ),
    (
        "recall_jax/data/prepared.py",
        "arrays = [self.items, self.offsets, self.train_stop]",
        "arrays = [self.items, self.offsets]",
        EXAMPLES + "test_the_fingerprint_covers_the_split",
    ),
    # Examples.
    (
        "recall_jax/data/examples.py",
        "first = np.maximum(flat.start + min_history, flat.first)",
        "first = flat.start + min_history",
        FILE_ORDER + "test_examples_are_the_200_next_to_the_test_less_the_farthest",
    ),
    (
        "recall_jax/data/examples.py",
        "keep &= (position < stop[user]) & ~np.isin(pair, taken)",
        "keep &= ~np.isin(pair, taken)",
        EXPOSURES + "test_each_users_are_those_of_the_definition",
    ),
    (
        "recall_jax/data/examples.py",
        'position = np.searchsorted(key, shown_key, side="right")',
        'position = np.searchsorted(key, shown_key, side="left")',
        EXPOSURES + "test_each_users_are_those_of_the_definition",
    ),
    (
        "recall_jax/data/examples.py",
        "log_lib.labels(log, config.label)[flat.order][position]",
        "log_lib.labels(log, config.label)[position]",
        EXPOSURES + "test_examples_carry_labels_and_exposures_are_examples_of_label_0",
    ),
    (
        "recall_jax/data/examples.py",
        "np.random.default_rng([seed, len(user)]).permutation(len(user))",
        "np.random.default_rng([0, len(user)]).permutation(len(user))",
        EXAMPLES + "test_which_they_are_goes_by_the_seed_and_not_by_their_place",
    ),
    # Histories.
    (
        "recall_jax/data/arrays.py",
        "index = position[:, None] + jnp.arange(-length, 0)[None, :]",
        "index = position[:, None] + jnp.arange(1 - length, 1)[None, :]",
        DATASET + "test_histories_are_what_stands_before_and_never_the_target",
    ),
    (
        "recall_jax/data/arrays.py",
        "mine = index >= self.offsets[user][:, None]",
        "mine = index >= self.offsets[user - 1][:, None]",
        DATASET + "test_histories_are_what_stands_before_and_never_the_target",
    ),
    (
        "recall_jax/data/arrays.py",
        "jnp.where(index <= position[:, None], index - 1, index)",
        "jnp.where(index < position[:, None], index - 1, index)",
        EXAMPLES
        + "test_around_holds_what_stands_on_both_sides_in_training_without_the_positive",
    ),
    (
        "recall_jax/data/arrays.py",
        "begin, stop = self.offsets[user], self.train_stop[user]",
        "begin, stop = self.offsets[user], self.offsets[user + 1]",
        EXAMPLES
        + "test_around_holds_what_stands_on_both_sides_in_training_without_the_positive",
    ),
    (
        "recall_jax/data/arrays.py",
        'columns["example_age"] = self.age[position]',
        'columns["example_age"] = self.age[position - 1]',
        EXAMPLES + "test_the_age_is_the_time_to_the_end_of_training_and_0_in_use",
    ),
    (
        "recall_jax/data/arrays.py",
        "before = jnp.minimum(self.items[position - 1], self.known_items + 1)",
        "before = jnp.minimum(self.items[position], self.known_items + 1)",
        EXAMPLES + "test_rows_hold_examples_end_to_end_and_the_item_before_each",
    ),
    (
        "recall_jax/data/arrays.py",
        "first = self.token_offsets[self.offsets[user]]",
        "first = self.token_offsets[self.offsets[user - 1]]",
        EXAMPLES
        + "test_searched_are_the_last_words_of_the_events_before_and_no_others",
    ),
    # Sequences and their graph.
    (
        "recall_jax/pairs/sequences.py",
        "starts, stops = data.offsets[:-1], data.train_stop\n",
        "starts, stops = data.offsets[:-1], data.offsets[1:]\n",
        SEQUENCES + "test_training_events_all_come_once_and_held_out_ones_never",
    ),
    (
        "recall_jax/pairs/sequences.py",
        "begins[1:] |= _pauses(data, at) > config.gap",
        "begins[1:] |= _pauses(data, at) >= config.gap",
        SEQUENCES + "test_a_pause_longer_than_the_gap_cuts_and_one_as_long_does_not",
    ),
    (
        "recall_jax/pairs/sequences.py",
        "begins[1:] |= converted[at][:-1]",
        "begins[1:] |= converted[at][1:]",
        SEQUENCES + "test_a_sequence_ends_with_its_conversion_and_at_a_pause",
    ),
    (
        "recall_jax/pairs/sequences.py",
        "again = (user[1:] == user[:-1]) & (item[1:] == item[:-1])",
        "again = item[1:] == item[:-1]",
        SEQUENCES + "test_repeated_clicks_go_but_not_conversions_nor_other_users",
    ),
    (
        "recall_jax/pairs/sequences.py",
        "times = np.where(booked > 0, config.oversample, 1)",
        "times = np.full(len(booked), config.oversample)",
        SEQUENCES + "test_booked_sequences_count_as_often_as_asked_if_long_enough",
    ),
    (
        "recall_jax/pairs/graph.py",
        "some[offsets[(offsets > 0) & (offsets < len(items))] - 1] = False",
        "some[offsets[(offsets > 1) & (offsets < len(items))] - 2] &= True",
        GRAPH + "test_transitions_count_what_follows_within_a_session",
    ),
]
