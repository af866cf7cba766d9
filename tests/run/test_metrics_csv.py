"""metrics.csv: one row a step, continued by a resumed run."""

import csv

import pytest

from trimask.run.metrics_csv import MetricsCsv


def rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def test_what_is_logged_at_one_step_shares_a_row(path):
    logger = MetricsCsv(path)
    logger.log_metrics({"loss": 1.5}, step=0)
    logger.log_metrics({"lr": 0.1}, step=0)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    assert rows(path) == [{"step": "0", "loss": "1.5", "lr": "0.1"}, {"step": "1", "loss": "1.0", "lr": ""}]


def test_rows_are_saved_as_they_come(path):
    logger = MetricsCsv(path)
    for step in range(5):
        logger.log_metrics({"loss": step}, step=step)
        logger.save()
        logger.save()  # nothing new
        assert len(rows(path)) == step + 1
    logger.log_metrics({"miou": 0.5}, step=4)
    logger.finalize("success")
    assert rows(path)[4] == {"step": "4", "loss": "4.0", "miou": "0.5"}


def test_numbers_survive_exactly(path):
    logger = MetricsCsv(path)
    logger.log_metrics({"x": 0.1 + 0.2}, step=0)
    logger.save()
    assert float(rows(path)[0]["x"]) == 0.1 + 0.2


def test_a_resumed_run_replaces_what_it_trains_again(path):
    first = MetricsCsv(path)
    for step in range(6):
        first.log_metrics({"loss": step}, step=step)
    first.save()
    second = MetricsCsv(path)
    for step in range(3, 8):
        second.log_metrics({"loss": 10 + step}, step=step)
        second.save()
    assert [row["loss"] for row in rows(path)] == ["0.0", "1.0", "2.0", "13.0", "14.0", "15.0", "16.0", "17.0"]


def test_a_continued_file_that_gets_no_row_stays(path):
    first = MetricsCsv(path)
    first.log_metrics({"loss": 1}, step=0)
    first.save()
    before = path.read_bytes()
    MetricsCsv(path).save()
    assert path.read_bytes() == before


def test_a_row_that_comes_late_is_in_its_place(path):
    logger = MetricsCsv(path)
    logger.log_metrics({"a": 1}, step=5)
    logger.save()
    logger.log_metrics({"a": 2}, step=3)
    logger.save()
    assert [row["step"] for row in rows(path)] == ["3", "5"]


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_row_that_a_kill_has_cut_off_is_left_out(path, cut):
    first = MetricsCsv(path)
    for step in range(13):
        first.log_metrics({"loss": step}, step=step)
        first.save()
    path.write_bytes(path.read_bytes()[:-cut])  # of "12,12.0\r\n": without its end, or a row "12,1", or "12,"
    second = MetricsCsv(path)
    second.log_metrics({"loss": 7.5}, step=12)
    second.save()
    assert [row["loss"] for row in rows(path)] == [f"{step}.0" for step in range(12)] + ["7.5"]
    path.write_bytes(path.read_bytes()[:6])  # of its first line
    third = MetricsCsv(path)
    third.log_metrics({"loss": 1.0}, step=0)
    third.save()
    assert rows(path) == [{"step": "0", "loss": "1.0"}]
