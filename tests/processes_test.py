"""Real processes on one machine, through the real command line."""

import os
import socket
import subprocess

import numpy as np
from trainer_test import ROOT, command, lines, micro

from mapo_jax import trainer


def test_two_processes_train_as_one(tmp_path):
    """The same losses within tolerance, and one set of records."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {name: v for name, v in os.environ.items() if name != "XLA_FLAGS"}
    (tmp_path / "my.py").write_text(  # a reward that an untrained policy can differ in
        "def short(response, example):\n"
        "    n = len(response)\n"
        "    return {'reward': 1 / (1 + n), 'success': n < 9, 'parts': {'n': n}}\n"
    )
    reward = f"{tmp_path}/my.py:short"
    together = [
        f"--config.task.reward={reward}",
        "--config.dynamic.max_tries=20",
        "--config.rollout.chunks=2",
        "--config.log.console=json",
    ]
    together += [f"--coordinator=localhost:{port}", "--num-processes=2"]
    processes = [
        subprocess.Popen(
            [*command(tmp_path / "two"), *together, f"--process-id={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert '"event"' in outputs[0][0]
    assert '"event"' not in outputs[1][0]  # the first process alone speaks

    config = micro(task__reward=reward, dynamic__max_tries=20)
    trainer.train(config, tmp_path / "one")  # 8 devices in this process
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    places = [(row["kind"], row["phase"], row["step"]) for row in one]
    assert [(row["kind"], row["phase"], row["step"]) for row in two] == places
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name.startswith(("loss/", "reward/", "eval/", "success_count/", "policy/grad")):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert max(row["groups/tries"] for row in two if "groups/tries" in row) > 1
    # The first process writes of all: dynamic sampling may have taken prompts from any.
    texts = [
        [(row["kind"], row["step"], row["prompt"], row["response"]) for row in rows]
        for rows in (lines(tmp_path / "one", "rollouts"), lines(tmp_path / "two", "rollouts"))
    ]
    assert texts[0] == texts[1]
