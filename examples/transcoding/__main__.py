"""Transcode a video on a Ray cluster, watch it, and check the result.

``python -m examples.transcoding`` starts three Ray nodes on this machine and makes a video to work
on. README.md, beside this file, lists the options.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from examples.transcoding.media import make_clip
from examples.transcoding.nodes import HEAD, REPOSITORY, NodeStartError, RayNodes
from examples.transcoding.pipeline import HEIGHTS, JobAgent, Progress
from examples.transcoding.report import (
    Display,
    Loss,
    check_loss,
    check_results,
    make_console,
    result_table,
    tell_loss,
    times_begun,
)
from jido_cluster import AgentRef, Cluster, ClusterConfig, JidoError, new_id

MODULE = "examples.transcoding.pipeline"
POLL_SECONDS = 0.05
NODES_SECONDS = 120.0  # for all nodes of our own cluster to be up
STALL_SECONDS = 600.0  # without any progress, before the job is given up


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options: the command line first, then the environment, as `make demo` gives them."""
    parser = argparse.ArgumentParser(prog="python -m examples.transcoding", description=__doc__)
    environment = os.environ.get
    parser.add_argument(
        "--video", default=environment("VIDEO") or None, help="the video; else one is made [VIDEO]"
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        default=environment("KILL", "0") not in {"", "0"},
        help="kill the node that hosts the job half-way [KILL=1]",
    )
    parser.add_argument(
        "--address",
        default=environment("ADDRESS") or None,
        help="join this Ray cluster ('auto': the one on this machine) [ADDRESS]",
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the video it makes")
    parser.add_argument("--workdir", type=Path, help="where the results go, seen by every node")
    parser.add_argument("--keep", action="store_true", help="keep the results of a made video too")
    options = parser.parse_args(arguments)
    if options.kill and options.address:
        parser.error("--kill needs the cluster that the demo starts itself: leave out --address")
    if not 0.1 <= options.seconds <= 3600:
        parser.error("--seconds is from 0.1 to 3600")
    return options


class Demo:
    """One run: a video, a cluster, a job, and a verdict."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.console = make_console()
        self.cleanup = contextlib.ExitStack()
        self.nodes: RayNodes | None = None
        self.node_names: dict[str, str] = {}
        self.log = Path()
        self.loss: Loss | None = None

    def run(self) -> int:
        """Do everything, and return the exit code."""
        started = time.monotonic()
        try:
            with self.cleanup:
                workdir = self._workdir()
                logs = self.cleanup.enter_context(
                    tempfile.TemporaryDirectory(prefix="transcoding-")
                )
                self.log = Path(logs) / "begun"
                video = self._video(workdir)
                cluster = self._cluster()
                job = self._spawn(cluster, video, workdir)
                progress = self._follow(job)
                self._tell_result(progress, workdir)
                self._check(video, progress)
        except (DemoError, JidoError, NodeStartError) as error:
            self.console.print(f"[bold red]failed[/]: {escape(str(error))}", soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            self.console.print("interrupted")
            return 130
        self.console.print(f"done in {time.monotonic() - started:.0f} s")
        return 0

    def _workdir(self) -> Path:
        """Choose where the results go; what nobody asked for is removed in the end."""
        if self.options.workdir:
            return Path(self.options.workdir).absolute()
        directory = Path(tempfile.mkdtemp(prefix="transcoded-"))
        if self.options.keep or self.options.video:
            self.cleanup.callback(_remove_if_empty, directory)
        else:
            self.cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    def _video(self, workdir: Path) -> Path:
        if self.options.video:
            return Path(self.options.video).absolute()
        self.console.print(f"making a video of {self.options.seconds:g} s")
        workdir.mkdir(parents=True, exist_ok=True)
        video = workdir / "clip.mp4"
        asyncio.run(make_clip(video, self.options.seconds))
        return video

    def _cluster(self) -> Cluster:
        """Connect to the cluster that was named, or to one started for the occasion."""
        if self.options.address:
            # Nodes that others have started do not know where this example is.
            runtime_env = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
            config = ClusterConfig(modules=(MODULE,), runtime_env=runtime_env)
            cluster = Cluster.connect(self.options.address, config=config)
            self.cleanup.enter_context(cluster)
        else:
            self.console.print("starting a Ray cluster of three nodes")
            self.nodes = self.cleanup.enter_context(RayNodes())
            config = ClusterConfig(modules=(MODULE,))
            cluster = self.cleanup.enter_context(Cluster.connect(self.nodes.address, config=config))
            self._wait_for_nodes(cluster, self.nodes)
        up = [node for node in cluster.nodes() if node.status == "up"]
        self.node_names = {key: node.name for node in up for key in (node.id, node.name)}
        names = ", ".join(sorted(node.name for node in up))
        self.console.print(f"the cluster has {len(up)} nodes: {escape(names)}")
        return cluster

    def _wait_for_nodes(self, cluster: Cluster, nodes: RayNodes) -> None:
        """Wait for all to be up; before a kill also for each to lead its part of the shards."""
        deadline = time.monotonic() + NODES_SECONDS
        while True:
            up = [node for node in cluster.nodes() if node.status == "up"]
            is_shared = all(node.shards_led > 0 for node in up)
            if len(up) == len(nodes.names) and (is_shared or not self.options.kill):
                return
            nodes.check()
            if time.monotonic() > deadline:
                raise DemoError(f"the nodes are not ready after {NODES_SECONDS:.0f} s: {up}")
            time.sleep(POLL_SECONDS)

    def _spawn(self, cluster: Cluster, video: Path, workdir: Path) -> AgentRef[JobAgent]:
        """Make the job's agent; not on the head if its node is to be killed: Ray needs the head."""
        while True:
            job = cluster.spawn(
                JobAgent, new_id("job-"), source=video, workdir=workdir, log=self.log
            )
            if not self.options.kill or self._host(job) != HEAD:
                return job
            job.delete()

    def _host(self, job: AgentRef[JobAgent]) -> str:
        """The name of the node where the job's agent lives now."""
        node = job.info().node
        return self.node_names.get(node, node)

    def _follow(self, job: AgentRef[JobAgent]) -> Progress:
        """Start the job and show it until it has ended; on the way, pull a plug if asked to."""
        self.console.print(f"{job.id} lives on {escape(self._host(job))}")
        progress = job.call(JobAgent.begin)
        is_kill_due = self.options.kill
        moved_at = time.monotonic()
        with Display(self.console, self.node_names) as display:
            while True:
                display.show(progress)
                if progress.has_ended:
                    break
                if is_kill_due and 2 * progress.tasks_done >= progress.tasks > len(HEIGHTS):
                    is_kill_due = not self._kill_host(job, progress, display)
                time.sleep(POLL_SECONDS)
                before, progress = progress, job.call(JobAgent.progress)
                if progress != before:
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at > STALL_SECONDS:
                    raise DemoError(f"nothing has moved for {STALL_SECONDS:.0f} s")
        if progress.status == "failed":
            raise DemoError(f"the job failed: {progress.message}")
        if is_kill_due:
            raise DemoError("the job was done before a node could be killed: take a longer video")
        return progress

    def _kill_host(self, job: AgentRef[JobAgent], progress: Progress, display: Display) -> bool:
        """Kill the node where the job's agent lives, and see who goes on with it.

        Returns whether it was done: a job that has just moved to the head is left alone.
        """
        if self.nodes is None:
            raise DemoError("there are no nodes of our own to kill")
        victim = self._host(job)
        if victim == HEAD:
            return False
        display.say(f"killing {victim}, the job's node: {len(progress.recorded)} segments recorded")
        begun = times_begun(self.log)
        killed_at = time.monotonic()
        self.nodes.kill(victim)
        host = self._host(job)
        seconds = time.monotonic() - killed_at
        display.say(f"{job.id} lives on {host}, {seconds:.1f} s later")
        self.loss = Loss(victim, host, seconds, progress.recorded, begun)
        return True

    def _tell_result(self, progress: Progress, workdir: Path) -> None:
        self.console.print(result_table(progress, self.node_names))
        again = progress.attempts - progress.tasks_done
        if again:
            self.console.print(
                f"{again} of {progress.attempts} attempts failed and were made again"
            )
        for line in tell_loss(self.loss, times_begun(self.log)) if self.loss else ():
            self.console.print(escape(line), soft_wrap=True)
        if self.options.workdir or self.options.keep or self.options.video:
            self.console.print(f"results in {escape(str(workdir))}", soft_wrap=True)

    def _check(self, video: Path, progress: Progress) -> None:
        """Decode every result and compare it with the source; see what a kill has cost."""
        if self.loss and (undone := check_loss(self.loss, times_begun(self.log))):
            raise DemoError("; ".join(undone))
        made = [row.result.path for row in progress.renditions if row.result]
        if len(made) != len(HEIGHTS):
            raise DemoError(f"{len(made)} files were made, not {len(HEIGHTS)}")
        problems = asyncio.run(check_results(video, dict(zip(HEIGHTS, made, strict=True))))
        if problems:
            raise DemoError("the result is wrong: " + "; ".join(problems))
        self.console.print(f"checked: {len(made)} files decode and match the source")


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and return its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that no Ray node is left behind
    return Demo(parse_options(arguments)).run()


if __name__ == "__main__":
    sys.exit(main())
