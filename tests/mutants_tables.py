"""Faults in a run's figures, in what compares runs, and tells of them: see `mutants`."""

COMPARE = "tests/commands/test_compare.py::"
FIGURES = "tests/run/test_results.py::"
TRAINING = "tests/run/test_experiment.py::"
TABLE = "tests/commands/test_table.py::"
ABLATE = "tests/commands/test_ablate.py::"
CHARTS = "tests/commands/test_report_charts.py::"

MUTANTS = [
    # A run's own validation and test.
    (
        "recall_jax/run/experiment.py",
        "part=data.valid,",
        "part=data.test,",
        TRAINING + "test_the_checkpoint_is_chosen_on_validation_with_all_items_ranked",
    ),
    (
        "recall_jax/run/experiment.py",
        "config=measure_lib.over_all(config.evaluate),",
        "config=config.evaluate,",
        TRAINING + "test_the_checkpoint_is_chosen_on_validation_with_all_items_ranked",
    ),
    (
        "recall_jax/run/experiment.py",
        "select_by=config.evaluate.select_by,",
        "select_by=config.evaluate.metrics[0],",
        TRAINING + "test_the_checkpoint_is_chosen_on_validation_with_all_items_ranked",
    ),
    (
        "recall_jax/run/data.py",
        'config = with_ties(config, "file")',
        'config = with_ties(config, "shuffled")',
        TRAINING + "test_the_other_data_have_ties_broken_the_other_way",
    ),
    (
        "recall_jax/run/data.py",
        'other = "file" if ties == "shuffled" else "shuffled"',
        'other = "shuffled"',
        TRAINING + "test_the_other_data_have_ties_broken_the_other_way",
    ),
    (
        "recall_jax/run/results.py",
        'data=data, part=data.valid, config=settings, index="exact"',
        'data=data, part=data.test, config=settings, index="exact"',
        FIGURES + "test_each_part_has_its_own_figures",
    ),
    (
        "recall_jax/run/results.py",
        "search, data=data, part=data.test, config=config.evaluate",
        "search, data=data, part=data.valid, config=config.evaluate",
        FIGURES + "test_baselines_have_the_figures_of_the_test_part",
    ),
    (
        "recall_jax/run/results.py",
        "chosen = searched[settings.index]",
        'chosen = searched["exact"]',
        FIGURES
        + "test_the_test_row_goes_through_the_index_chosen_and_validation_does_not",
    ),
    (
        "recall_jax/run/results.py",
        "gaps = {name: value - exact.values[name] for name, value",
        "gaps = {name: exact.values[name] - value for name, value",
        FIGURES + "test_what_an_index_costs_is_the_difference_of_the_same_users",
    ),
    (
        "recall_jax/run/results.py",
        "key = json.dumps([data.fingerprint(), *configs, of])",
        "key = json.dumps([*configs, of])",
        FIGURES + "test_baselines_are_kept_for_the_same_data_measured_alike",
    ),
    (
        "recall_jax/run/results.py",
        "key = json.dumps([data.fingerprint(), *configs, of])",
        "key = json.dumps([data.fingerprint(), of])",
        FIGURES + "test_baselines_are_kept_for_the_same_data_measured_alike",
    ),
    # Rows of tables, paired by seed, beside their like.
    (
        "experiments/common/summaries.py",
        "(means(cell, row).get(metric), theirs.get(cell.seed)) for cell in cells]",
        "(means(c, row).get(metric), x) for c, x in zip(cells, theirs.values())]",
        COMPARE + "test_differences_are_of_the_same_seeds_where_some_are_missing",
    ),
    (
        "experiments/common/summaries.py",
        "gaps = [ours - other for ours, other in pairs",
        "gaps = [other - ours for ours, other in pairs",
        COMPARE + "test_differences_are_of_the_same_seeds_where_some_are_missing",
    ),
    (
        "experiments/common/summaries.py",
        "error = sd / math.sqrt(len(gaps))",
        "error = sd / len(gaps)",
        COMPARE + "test_differences_are_of_the_same_seeds_where_some_are_missing",
    ),
    (
        "experiments/common/summaries.py",
        "stats.t.ppf(0.975, len(gaps) - 1)",
        "stats.norm.ppf(0.975)",
        COMPARE + "test_differences_are_of_the_same_seeds_where_some_are_missing",
    ),
    (
        "experiments/common/summaries.py",
        "    if len(gaps) < 2:\n",
        "    if len(gaps) < 3:\n",
        COMPARE + "test_differences_are_of_the_same_seeds_where_some_are_missing",
    ),
    (
        "experiments/common/summaries.py",
        'measured = results["protocol"], results["seen"], results["candidates"]',
        'measured = results["protocol"], results["seen"], "whole catalogue ranked"',
        COMPARE + "test_figures_of_other_candidates_stand_apart",
    ),
    (
        "experiments/common/summaries.py",
        'measured = results["protocol"], results["seen"], results["candidates"]',
        'measured = results["protocol"], "removed", results["candidates"]',
        TABLE + "test_what_may_not_be_compared_stands_apart",
    ),
    (
        "experiments/common/summaries.py",
        'return data["source"], data["events"], *measured',
        'return data["source"], 7000, *measured',
        COMPARE + "test_figures_of_other_candidates_stand_apart",
    ),
    (
        "experiments/common/summaries.py",
        "return float(np.mean([(high - low) / 2 for low, high in bounds]))",
        "return float(np.mean([(high - low) for low, high in bounds]))",
        TABLE + "test_mean_and_sd_are_numpys_over_seeds",
    ),
    (
        "experiments/common/cells.py",
        'return "diverged" if numbers else "failed"',
        'return "failed" if numbers else "diverged"',
        TABLE + "test_a_row_says_that_runs_diverged_or_failed_and_the_others_go_on",
    ),
    (
        "experiments/common/tabulate.py",
        "+-{gap['half_width']:.4f}",
        "+-{gap['standard_error']:.4f}",
        COMPARE + "test_differences_are_of_the_same_seeds_where_some_are_missing",
    ),
    (
        "experiments/common/tabulate.py",
        'yield name, f"{metric}_high", high',
        'yield name, f"{metric}_high", low',
        TABLE + "test_the_csv_is_tidy",
    ),
    (
        "experiments/common/cells.py",
        "config = dataclasses.replace(entry.config, seed=seed)",
        "config = dataclasses.replace(entry.config, seed=0)",
        TABLE + "test_finished_runs_are_read_and_only_missing_ones_run",
    ),
    (
        "experiments/common/results.py",
        (
            'names = "test", "valid", "test_ties_shuffled", "test_refit"\n'
            '    means = results["baselines"] | {name: results.get(name) for name in names}'
        ),
        (
            'names = "test", "valid", "test_ties_shuffled", "test_refit"\n'
            '    means = results["baselines"] | {x: results.get("test") for x in names}'
        ),
        COMPARE + "test_a_run_tells_its_validation_and_its_test_figures_apart",
    ),
    (
        "experiments/common/summary.py",
        'labels["valid"] = "  on validation"',
        'labels["test"], labels["valid"] = "  on validation", labels["test"]',
        COMPARE + "test_a_run_tells_its_validation_and_its_test_figures_apart",
    ),
    (
        "experiments/common/series.py",
        'value = summaries.means(cell, "test").get(metric)',
        'value = summaries.means(cell, "valid").get(metric)',
        COMPARE + "test_rows_of_models_have_test_figures",
    ),
    (
        "experiments/common/ablation.py",
        "first = cells[cells_lib.folder_name(block.base.entry)]",
        "first = next(iter(cells.values()))",
        ABLATE + "test_differences_are_to_the_base_of_the_factor_by_seed",
    ),
    (
        "experiments/common/ablation.py",
        "letter = _letter(measured.index(key))",
        "letter = _letter(0)",
        ABLATE + "test_every_protocol_is_told_once_with_its_baselines",
    ),
    (
        "experiments/common/ablation.py",
        "        metrics = {study.by: None, **metrics}",
        "        metrics = {**metrics}",
        ABLATE + "test_differences_are_to_the_base_of_the_factor_by_seed",
    ),
    (
        "experiments/common/study.py",
        "parts = [base, study.budget, text, *last]",
        "parts = [base, study.budget, *last, text]",
        ABLATE
        + "test_a_setting_is_base_then_budget_then_its_own_then_what_holds_for_all",
    ),
    (
        "experiments/common/groups.py",
        'return run.results["candidates"], run.results["seen"]',
        'return "", run.results["seen"]',
        CHARTS + "test_what_may_not_be_compared_is_apart",
    ),
    (
        "experiments/common/groups.py",
        "key=lambda pair: not pair[0].results",
        "key=lambda pair: bool(pair[0].results)",
        CHARTS + "test_a_run_twice_counts_once_and_is_told",
    ),
]
