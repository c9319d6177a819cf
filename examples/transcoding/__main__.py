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
from examples.transcoding.report import Display, check_results, make_console, result_table
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
        help="kill a worker node half-way [KILL=1]",
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

    def run(self) -> int:
        """Do everything, and return the exit code."""
        started = time.monotonic()
        try:
            with self.cleanup:
                workdir = self._workdir()
                video = self._video(workdir)
                cluster = self._cluster()
                job = cluster.spawn(JobAgent, new_id("job-"), source=video, workdir=workdir)
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
            self._wait_for_nodes(cluster, self.nodes, 3)
        up = [node for node in cluster.nodes() if node.status == "up"]
        self.node_names = {key: node.name for node in up for key in (node.id, node.name)}
        names = ", ".join(sorted(node.name for node in up))
        self.console.print(f"the cluster has {len(up)} nodes: {escape(names)}")
        return cluster

    @staticmethod
    def _wait_for_nodes(cluster: Cluster, nodes: RayNodes, count: int) -> None:
        deadline = time.monotonic() + NODES_SECONDS
        while sum(node.status == "up" for node in cluster.nodes()) < count:
            nodes.check()
            if time.monotonic() > deadline:
                raise DemoError(f"no {count} nodes are up after {NODES_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _follow(self, job: AgentRef[JobAgent]) -> Progress:
        """Start the job and show it until it has ended; on the way, pull a plug if asked to."""
        home = self.node_names.get(job.info().node, job.info().node)
        self.console.print(f"{job.id} lives on {escape(home)}")
        progress = job.call(JobAgent.begin)
        is_kill_due = self.options.kill
        moved_at = time.monotonic()
        with Display(self.console, self.node_names) as display:
            while True:
                display.show(progress)
                if progress.has_ended:
                    break
                if is_kill_due and 2 * progress.tasks_done >= progress.tasks > len(HEIGHTS):
                    is_kill_due = False
                    self._kill_worker(home, display)
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

    def _kill_worker(self, home: str, display: Display) -> None:
        """Kill a worker node, but not the one where the job's agent lives: see README.md."""
        if self.nodes is None:
            raise DemoError("there are no nodes of our own to kill")
        victim = next(name for name in self.nodes.names if name not in {HEAD, home})
        display.say(f"killing {victim}")
        self.nodes.kill(victim)

    def _tell_result(self, progress: Progress, workdir: Path) -> None:
        self.console.print(result_table(progress, self.node_names))
        again = progress.attempts - progress.tasks_done
        if again:
            self.console.print(
                f"{again} of {progress.attempts} attempts failed and were made again"
            )
        if self.options.workdir or self.options.keep or self.options.video:
            self.console.print(f"results in {escape(str(workdir))}", soft_wrap=True)

    def _check(self, video: Path, progress: Progress) -> None:
        """Decode every result and compare it with the source."""
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
