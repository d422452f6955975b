from fake_sweep import run, write_metrics

from launch.report.figures.training_curves import read_training_curve


def test_loss_curves_come_from_the_metrics_and_end_with_the_record(tmp_path):
    record, _ = run(0.1)
    write_metrics(tmp_path, record)
    curve = read_training_curve(str(tmp_path), record)
    assert curve.train[0][0] == 10 * 32 * 128 and len(curve.train) == record.n_steps // 10
    assert curve.held_out["toxic"][-1] == (record.n_tokens, record.held_out[1].loss)
    assert [estimate.n for _, estimate in curve.probe] == [64] * (record.n_steps // 100)


def test_without_metrics_only_the_final_losses_are_known(tmp_path):
    record, _ = run(0.1)
    curve = read_training_curve(str(tmp_path), record)
    assert curve.train == [] and list(curve.held_out) == ["clean", "toxic"]
