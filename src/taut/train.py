"""The training loop. Of a method it knows `Objective.loss(model, batch, step)` and how many stages it has."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from taut.data.dataset import DataError, Dataset
from taut.data.stream import Stream
from taut.errors import out_of_memory
from taut.looks import Looks, can_judge
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, Objective
from taut.plan import Plan, TrainPlan
from taut.run import Run, writing

DAMAGE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)  # of a file that is read
PRIME = 1_000_003  # between the seeds of processes
WARMING_STEPS = 2  # of a session, in which kernels are made
MOST_LOST = 300.0  # seconds of training that an interruption may cost, where steps are few and slow


class TrainingError(RuntimeError):
    """Training that cannot go on; the message names the step and the loss term."""


class Task(nn.Module):
    """A model, its objective and its averaged weights in one module.

    One module, so that a distributed wrapper sees one forward call, and a checkpoint holds all of the state.
    looks: keep other weights than the last ones, where held-out annotations say so.
    """

    def __init__(self, model: LabelVAE, objective: Objective, looks: Looks | None = None) -> None:
        super().__init__()
        self.model, self.objective, self.looks = model, objective, looks
        self.average = copy.deepcopy(model).requires_grad_(False).eval()

    def forward(self, batch: Batch, step: int) -> LossTerms:
        """The loss terms of a batch."""
        return self.objective.loss(self.model, batch, step)

    def train(self, mode: bool = True) -> Task:
        """Set the mode; the averaged weights are always in evaluation mode."""
        super().train(mode)
        self.average.eval()
        return self

    def tensors(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """The averaged and current floating tensors, and the averaged and current other ones, in the same order."""
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        other = [pair for pair in pairs if not pair[0].is_floating_point()]
        return (*map(list, zip(*floating, strict=True)), *(map(list, zip(*other, strict=True)) if other else ([], [])))  # type: ignore[return-value]


@dataclass
class TrainResult:
    """model: averaged weights, in evaluation mode.  kept: the step that they are of, the last one without looks.

    steps, seconds: of all sessions of the run; `fit` adds the seconds of the trainings on folds in this session.
    step_seconds: the usual time of a step of this session.
    notes: what the objective has found.
    """

    model: LabelVAE
    steps: int
    seconds: float
    step_seconds: float
    kept: int
    notes: list[str] = field(default_factory=list)


@dataclass
class Progress:
    """Where a run stands; what a checkpoint holds beside the tensors."""

    step: int = 0
    seconds: float = 0.0


def one_cycle(step: int, plan: TrainPlan, stages: int = 1) -> float:
    """The factor of the learning rate at a step: up along a cosine for `warmup` of the steps, then down to 0.

    stages: so often, each in its part of the steps.
    """
    whole, rise = (step + 1) / (plan.steps + 1) * stages, max(plan.warmup, 1e-6)
    position = whole % 1
    if position < rise:
        return 0.5 - 0.5 * math.cos(math.pi * max(position / rise, 0.02))
    return 0.5 + 0.5 * math.cos(math.pi * (position - rise) / (1 - rise))


@contextmanager
def separate_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's random states alone: torch's, and numpy's and Python's, which a checkpoint restores too."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what is to be kept
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def processes() -> PartialState:
    """The processes that train together (torchrun), on the CPU too, of which accelerate must be told."""
    # One that finds its images in the cache waits for another that decodes them for hours.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


@contextmanager
def interrupts_after_steps(wanted: bool) -> Iterator[list[int]]:
    """Let a first Ctrl-C wait for what asks the list whether there was one; a second one stops at once."""
    asked: list[int] = []
    usual = signal.default_int_handler
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is usual
    if not (wanted and mine):
        yield asked
        return

    def wait(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, wait)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)
    if asked:
        raise KeyboardInterrupt


def make_accelerator(plan: TrainPlan) -> Accelerator:
    """An Accelerator for the plan's precision; several trainings in one process may differ in it."""
    processes()
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # others lack operations: Apple's cannot pool a 7x7 map to 4x4
        mixed_precision="no" if plan.precision == "fp32" else plan.precision,
        gradient_accumulation_steps=plan.accumulate,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def make_optimizer(model: nn.Module, plan: TrainPlan) -> torch.optim.Optimizer:
    """AdamW, without decay on biases, normalisation and other vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)


def train(
    model: LabelVAE,
    objective: Objective,
    stream: Stream,
    plan: Plan,
    run: Run | None = None,
    resume: bool = False,
    quiet: bool = False,
    name: str = "train",
    held: Dataset | None = None,
) -> TrainResult:
    """Train a model by an objective on a stream of batches, for the plan's number of steps.

    held: images with annotations that choose, of the plan's number of looks, the weights that are kept.
    run: where metrics and checkpoints go.  resume: go on from the run's checkpoint; on the CPU, with the same number
    of threads, the weights are then bit for bit those of an uninterrupted run.  name: before the progress bar.
    Raises TrainingError where a loss term or a weight is NaN or infinite, and DataError where the checkpoint is damaged
    or another number of processes wrote it.
    """
    settings = plan.train
    accelerator = make_accelerator(settings)
    device = accelerator.device
    with separate_randomness(device):
        # Processes draw other noise, as they have other images.
        torch.manual_seed(plan.seed + accelerator.process_index * PRIME)
        looks = Looks(model, held, settings.looks) if held is not None and settings.looks and can_judge(held) else None
        task = Task(model, objective, looks)
        optimizer = make_optimizer(nn.ModuleList([model, objective]), settings)
        task.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        wrapped, optimizer = accelerator.prepare(task, optimizer)
        progress = Progress()
        if resume and run is not None:
            progress = load_checkpoint(accelerator, run)
        # Of several processes each may be at another step when it is interrupted.
        with interrupts_after_steps(run is not None and accelerator.num_processes == 1) as asked:
            return _loop(
                accelerator,
                wrapped,
                task,
                optimizer,
                stream,
                settings,
                progress,
                run=run,
                quiet=quiet,
                name=name,
                interrupted=asked,
            )


def _loop(
    accelerator: Accelerator,
    wrapped: nn.Module,
    task: Task,
    optimizer: torch.optim.Optimizer,
    stream: Stream,
    settings: TrainPlan,
    progress: Progress,
    *,
    run: Run | None,
    quiet: bool,
    name: str,
    interrupted: list[int],
) -> TrainResult:
    wrapped.train()
    averaged, current, averaged_other, current_other = task.tensors()
    looks, main = task.looks, accelerator.is_main_process
    bar = tqdm(
        total=settings.steps,
        initial=progress.step,
        unit="step",
        desc=name,
        disable=True if quiet or not main else None,  # None: only where there is a terminal
    )
    times: list[float] = []
    waiting: list[dict[str, Tensor]] = []
    began = time.perf_counter() - progress.seconds
    last = kept_at = time.perf_counter()
    for step in range(progress.step, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(step, settings, task.objective.stages)
        for part in range(settings.accumulate):
            batch = stream.batch(step * settings.accumulate + part, task.model, accelerator.device)
            with accelerator.accumulate(wrapped), accelerator.autocast():
                terms = wrapped(batch, step)
                accelerator.backward(terms.total)
                optimizer.step()
                optimizer.zero_grad()
            waiting.append(terms.present())
        logged = (step + 1) % settings.log_every == 0 or step + 1 == settings.steps
        saved = run is not None and (
            (step + 1) % settings.checkpoint_every == 0
            or step + 1 == settings.steps
            or bool(interrupted)
            or _overdue(accelerator, kept_at, logged)
        )
        # Reading a number waits for a GPU, so there only now and then, and before a checkpoint replaces the last one.
        if accelerator.device.type == "cpu" or logged or saved:
            for terms_of_part in waiting[-settings.accumulate :]:
                check_finite(terms_of_part, step)
        with torch.no_grad():
            torch._foreach_lerp_(averaged, current, 1 - min(settings.ema, (1 + step) / (10 + step)))
            for mine, theirs in zip(averaged_other, current_other, strict=True):
                mine.copy_(theirs)
        now = time.perf_counter()
        times.append(now - last)
        if looks is not None and looks.due(step + 1, settings.steps):
            waiting[-1]["held_nll"] = torch.tensor(looks.look(task.average, step + 1))
            now = time.perf_counter()
        last = now
        progress = Progress(step + 1, now - began)
        bar.update()
        if logged and main:
            means = mean_terms(waiting)
            if run is not None:
                run.log({"step": step + 1, "seconds": round(progress.seconds, 3), **means})
            bar.set_postfix(loss=f"{means['total']:.3f}")
        if logged:
            waiting.clear()
        if saved and run is not None:
            check_weights(averaged, f"after step {step + 1}")  # of a gradient that is NaN no loss has told yet
            save_checkpoint(accelerator, run, progress)
            last = kept_at = time.perf_counter()
        if interrupted and saved:
            raise KeyboardInterrupt
    bar.close()
    check_weights(averaged, "after the last step")
    chosen = looks is not None and looks.step > 0  # not where no look had a finite figure
    model, kept = (looks.kept, int(looks.step)) if looks is not None and chosen else (task.average, progress.step)
    return TrainResult(model, progress.step, progress.seconds, usual_time(times), kept)


def usual_time(times: list[float]) -> float:
    """The mean time of a step without the first two of them and the slowest tenth of the others; 0 of none."""
    warm = sorted(times[WARMING_STEPS:] or times)
    return float(np.mean(warm[: max(1, int(0.9 * len(warm)))])) if warm else 0.0


def _overdue(accelerator: Accelerator, kept_at: float, logged: bool) -> bool:
    """Whether the last checkpoint is too old. The first of several processes decides, where a step is logged."""
    if accelerator.num_processes > 1 and not logged:
        return False
    return bool(broadcast_object_list([time.perf_counter() - kept_at > MOST_LOST])[0])


def mean_terms(waiting: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each term over the batches that have it."""
    names = dict.fromkeys(name for terms in waiting for name in terms)
    return {name: float(torch.stack([terms[name] for terms in waiting if name in terms]).mean()) for name in names}


def check_finite(terms: dict[str, Tensor], step: int) -> None:
    """Raise TrainingError naming the first term that is NaN or infinite."""
    if math.isfinite(float(terms["total"])):
        return
    name, value = next((n, float(v)) for n, v in terms.items() if not math.isfinite(float(v)))
    raise TrainingError(
        f"step {step + 1}: the loss term {name!r} is {value}; a lower --train.learning_rate may help, "
        "and the last checkpoint, where there is one, is kept"
    )


def check_weights(tensors: list[Tensor], when: str) -> None:
    """Raise TrainingError where a weight is NaN or infinite."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise TrainingError(
            f"the weights are NaN or infinite {when}; a lower --train.learning_rate may help, and the last checkpoint, "
            "where there is one, is kept"
        )


def save_checkpoint(accelerator: Accelerator, run: Run, progress: Progress) -> None:
    """Save everything that is needed to go on; the former checkpoint is there until the new one is complete."""
    fresh = run.checkpoint.with_name("checkpoint.new")
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    with writing(run.path, ": what was saved before is kept, and --resume goes on from there"):
        accelerator.save_state(str(fresh), safe_serialization=True)
    accelerator.wait_for_everyone()  # each process writes its random state into the folder that is now renamed
    if accelerator.is_main_process:
        said = {"step": progress.step, "seconds": progress.seconds, "processes": accelerator.num_processes}
        (fresh / "progress.json").write_text(json.dumps(said))
        former = run.checkpoint.with_name("checkpoint.old")
        shutil.rmtree(former, ignore_errors=True)
        if run.checkpoint.exists():
            run.checkpoint.rename(former)
        fresh.rename(run.checkpoint)
        shutil.rmtree(former, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, run: Run) -> Progress:
    """Load the run's checkpoint into what the accelerator has prepared; without one it says so, and begins anew."""
    place: Path = run.checkpoint
    if not place.exists() and place.with_name("checkpoint.old").exists():
        place = place.with_name("checkpoint.old")
    if not (place / "progress.json").exists():
        if accelerator.is_main_process:
            print(f"taut: {run.path} has no checkpoint: the training begins anew", file=sys.stderr)
            run.truncate_metrics(0)
        return Progress()
    try:
        data = json.loads((place / "progress.json").read_text())
        if (begun := data.get("processes", accelerator.num_processes)) != accelerator.num_processes:
            raise DataError(
                f"{run.path} was trained by {begun} processes and is resumed by {accelerator.num_processes}, whose "
                f"batches would be others: resume it with as many (torchrun --nproc-per-node {begun})"
            )
        accelerator.load_state(str(place))
    except (*DAMAGE, SafetensorError, UnpicklingError) as error:
        if isinstance(error, DataError) or out_of_memory(error):
            raise
        raise DataError(f"{place} is damaged: {' '.join(str(error).split())[:200]}") from error
    if accelerator.is_main_process:
        run.truncate_metrics(data["step"])
    return Progress(data["step"], data["seconds"])
