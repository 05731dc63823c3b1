"""Faults in what a sweep trains together and what it chooses: see `mutants`."""

RANKING = "tests/commands/test_ranking.py::"
RUNGS = "tests/commands/test_sweep_rungs.py::"
FOLDERS = "tests/commands/test_sweep_folders.py::"
OVER = "tests/commands/test_sweep_over.py::"
SWEEP = "tests/commands/test_sweep.py::"

MUTANTS = [
    # Validation chooses the setting of a sweep.
    (
        "experiments/common/ranking.py",
        'values = [cell.results["valid"][metric] for cell in done]',
        'values = [cell.results["test"][metric] for cell in done]',
        RANKING + "test_validation_chooses_and_test_is_only_told",
    ),
    (
        "experiments/common/ranking.py",
        'summaries.means(cell, "test")[metric] for cell',
        'summaries.means(cell, "valid")[metric] for cell',
        RANKING + "test_validation_chooses_and_test_is_only_told",
    ),
    (
        "experiments/common/ranking.py",
        'key=lambda row: (-row["finished"], -(row["valid"] or 0.0))',
        'key=lambda row: -(row["valid"] or 0.0)',
        RANKING + "test_fewer_finished_seeds_come_after_worse_means",
    ),
    (
        "experiments/common/ranking.py",
        'key=lambda row: (-row["finished"], -(row["valid"] or 0.0))',
        'key=lambda row: (-row["finished"], row["valid"] or 0.0)',
        RANKING + "test_validation_chooses_and_test_is_only_told",
    ),
    (
        "experiments/common/ranking.py",
        'key=lambda row: (-row["finished"], -(row["valid"] or 0.0))',
        'key=lambda row: (-row["finished"], -row["test"].get(metric, 0.0))',
        RANKING + "test_validation_chooses_and_test_is_only_told",
    ),
    (
        "experiments/common/ranking.py",
        "return cells[0].config.evaluate.select_by",
        "return cells[0].config.evaluate.metrics[0]",
        RANKING + "test_select_by_chooses_and_no_other_metric",
    ),
    (
        "experiments/common/ranking.py",
        "float(np.std(values, ddof=1)) if len(done) > 1",
        "float(np.std(values)) if len(done) > 1",
        RANKING + "test_figures_are_means_and_deviations_over_finished_seeds",
    ),
    (
        "experiments/common/ranking.py",
        'f"test {metric}": row["test"].get(metric),',
        'f"test {metric}": row["valid"],',
        RANKING + "test_the_table_says_which_figure_is_of_which_part",
    ),
    (
        "experiments/common/ranking.py",
        "{best['test'][metric]:.4f}",
        "{best['valid']:.4f}",
        RANKING + "test_the_table_says_which_figure_is_of_which_part",
    ),
    (
        "experiments/common/ranking.py",
        "done = [cell for cell in members if cell.results]",
        "done = [cell for cell in cells if cell.results]",
        RANKING + "test_validation_chooses_and_test_is_only_told",
    ),
    # Rungs of halving.
    (
        "experiments/common/rungs.py",
        "key=lambda label: (-len(reached[label]), -means[label])",
        "key=lambda label: -means[label]",
        RUNGS + "test_settings_with_more_runs_left_come_before_better_means",
    ),
    (
        "experiments/common/rungs.py",
        "key=lambda label: (-len(reached[label]), -means[label])",
        "key=lambda label: (-len(reached[label]), means[label])",
        RUNGS + "test_settings_with_more_runs_left_come_before_better_means",
    ),
    (
        "experiments/common/rungs.py",
        "kept, most = math.ceil(len(order) / halving)",
        "kept, most = len(order) // halving",
        RUNGS + "test_seeds_of_a_setting_in_two_portions_are_compared_as_one",
    ),
    (
        "experiments/common/rungs.py",
        "min(-(-mark // every) * every, epochs)",
        "min(mark // every * every, epochs)",
        RUNGS + "test_marks_follow_the_validations_of_the_config",
    ),
    (
        "experiments/sweep.py",
        "                reached[label] += values",
        "                reached[label] = values",
        RUNGS + "test_seeds_of_a_setting_in_two_portions_are_compared_as_one",
    ),
    (
        "experiments/sweep.py",
        "reached[cell.entry.label].append(lane.progress.best)",
        "reached[cell.entry.label].append(lane.progress.best_step)",
        RUNGS + "test_a_rung_compares_the_best_that_each_run_had_on_validation",
    ),
    (
        "experiments/sweep.py",
        "        if not lane.problem:\n            reached",
        "        if lane.steps:\n            reached",
        RUNGS + "test_a_rung_compares_the_best_that_each_run_had_on_validation",
    ),
    (
        "experiments/sweep.py",
        "        if decided.exists():\n            continue",
        "        if decided.is_dir():\n            continue",
        RUNGS + "test_a_split_is_remembered_by_the_next_command",
    ),
    # Which settings train together, and what each of them keeps.
    (
        "experiments/common/plan.py",
        '    "optim.weight_decay",\n',
        '    "optim.weight_decay",\n    "optim.tables",\n',
        OVER + "test_traced_fields_share_a_group_and_others_do_not",
    ),
    (
        "experiments/common/plan.py",
        '    "data.context",\n',
        '    "data.context",\n    "data.ties",\n',
        OVER + "test_settings_of_other_targets_are_not_ranked",
    ),
    (
        "experiments/common/plan.py",
        'json.dumps([content["data"], content["evaluate"], *laid])',
        'json.dumps([content["data"], *laid])',
        OVER + "test_data_are_shared_by_runs_that_differ_in_training_alone",
    ),
    (
        "experiments/common/plan.py",
        "fitting = int(on_each) * num_devices",
        "fitting = int(on_each * num_devices)",
        SWEEP + "test_portions_hold_what_fits",
    ),
    (
        "experiments/common/programs.py",
        "return [seeds.index(seed) for seed in seeds]",
        "return [0 for seed in seeds]",
        FOLDERS + "test_runs_of_one_seed_read_their_rows_in_one_order",
    ),
    (
        "experiments/common/programs.py",
        "stack.select([names.index(one) for one in portion.names])",
        "stack.select(range(len(portion.names)))",
        FOLDERS + "test_a_split_portion_goes_on_from_the_checkpoint_of_the_whole",
    ),
    (
        "experiments/common/programs.py",
        "_, folder, names = max(checkpoints)",
        "_, folder, names = min(checkpoints)",
        FOLDERS + "test_a_split_portion_goes_on_from_the_checkpoint_of_the_whole",
    ),
    (
        "recall_jax/training/lanes.py",
        "np.stack([rows[at] for at in group.orders])",
        "np.stack([rows[at] for at in sorted(group.orders)])",
        FOLDERS + "test_runs_of_one_seed_read_their_rows_in_one_order",
    ),
    (
        "recall_jax/training/lanes.py",
        "tuple(self.lanes[at] for at in kept)",
        "self.lanes[: len(kept)]",
        FOLDERS + "test_lanes_are_selected_with_their_states",
    ),
    (
        "recall_jax/training/lanes.py",
        "progress = lane.progress.after(measured[loop.select_by], step=step)",
        'progress = lane.progress.after(measured["hr@10"], step=step)',
        FOLDERS + "test_each_lane_keeps_the_best_of_its_own_by_select_by",
    ),
    (
        "recall_jax/training/lanes.py",
        "    loop, lane = group.loops[at], lane._replace(steps=step)",
        "    loop, lane = group.first, lane._replace(steps=step)",
        FOLDERS + "test_each_lane_keeps_the_best_of_its_own_by_select_by",
    ),
    (
        "recall_jax/training/lanes.py",
        "state = stack_lib.lane(states, at, group.layout)\n    start",
        "state = stack_lib.lane(states, 0, group.layout)\n    start",
        FOLDERS + "test_each_lane_keeps_the_best_of_its_own_by_select_by",
    ),
    (
        "recall_jax/training/lanes.py",
        "    if progress.best_step == step:",
        "    if progress.since_best >= 0:",
        FOLDERS + "test_each_lane_keeps_the_best_of_its_own_by_select_by",
    ),
]
