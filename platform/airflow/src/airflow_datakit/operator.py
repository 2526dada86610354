"""The operator that a DAG names: it becomes the one of the environment's runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from datakit.errors import ConfigurationError, DatakitError

from airflow_datakit._task import NEEDED, OWN_ARGUMENTS, DatakitTask, refuse_unknown, specified, with_asset
from airflow_datakit._tree import chosen_environment, chosen_project

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import MappedOperator, OperatorPartial
    from datakit.model.specification import RunSpec

_RUNTIMES = {
    "process": ("airflow_datakit.runtimes.process", "DatakitProcessOperator"),
    "docker": ("airflow_datakit.runtimes.docker", "DatakitDockerOperator"),
    "kubernetes": ("airflow_datakit.runtimes.kubernetes", "DatakitKubernetesOperator"),
}


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _naming_the_task(make: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let an error name its task, and its traceback end with who made it: Airflow shows only the last two steps."""

    @wraps(make)
    def named(*arguments: _P.args, **more: _P.kwargs) -> _R:
        try:
            return make(*arguments, **more)
        except DatakitError as error:
            first = arguments[0] if arguments else more.get("task_id")
            error.add_note(f"In the task: {getattr(first, 'task_id', first)}")
            raise error.with_traceback(None) from None

    return named


class DatakitOperator:
    """Makes tasks that run a datakit; never a task itself."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Say what to call instead.

        :raises TypeError: always.
        """
        raise TypeError(
            "call DatakitOperator.create(…), or .partial(…).expand(…): the environment says which it becomes"
        )

    @staticmethod
    @_naming_the_task
    def create(task_id: str, *, datakit: str, dataset: str, warehouse: str, **arguments: Any) -> DatakitTask:
        """Return the task that loads ``dataset`` into ``warehouse`` with ``datakit``.

        :param arguments: those of :class:`~airflow_datakit._task.DatakitTask`, and every argument of Airflow's
            BaseOperator.
        :raises ConfigurationError: something that the task names is not there, with the nearest name; or an image is
            not pinned where it has to be.
        """
        task: DatakitTask = runtime_class(arguments.get("home"))(
            task_id=task_id, datakit=datakit, dataset=dataset, warehouse=warehouse, **arguments
        )
        return task

    @staticmethod
    @_naming_the_task
    def partial(task_id: str, **arguments: Any) -> DatakitPartial:
        """Return what :meth:`DatakitPartial.expand` maps: one task for each of several slices, datasets or warehouses.

        :raises ConfigurationError: as :meth:`create`, for what is known already.
        """
        return DatakitPartial(task_id, arguments)


class DatakitPartial:
    """A datakit's task that some arguments are still missing of."""

    def __init__(self, task_id: str, arguments: Mapping[str, Any]) -> None:
        refuse_unknown({name: value for name, value in arguments.items() if name not in OWN_ARGUMENTS})
        self.task_id = task_id
        self._arguments = dict(arguments)
        self._check({})

    @_naming_the_task
    def expand(self, **mapped: Any) -> MappedOperator:
        """Return one task for each combination of the lists given.

        :raises ConfigurationError: one of them names what is not there.
        """
        literal = {
            name: values
            for name, values in mapped.items()
            if isinstance(values, Sequence) and not isinstance(values, str)
        }
        for chosen in product(*literal.values()):
            self._check(dict(zip(literal, chosen, strict=True)))
        return self._partial(may_slice="slice" in mapped).expand(**mapped)

    @_naming_the_task
    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> MappedOperator:
        """Return one task for each mapping of arguments.

        :raises ConfigurationError: one of them names what is not there.
        """
        items = kwargs if isinstance(kwargs, Sequence) else [kwargs]
        literal = [item for item in items if isinstance(item, Mapping)]
        for item in literal:
            self._check(item)
        may_slice = len(literal) < len(items) or any("slice" in item for item in literal)
        return self._partial(may_slice=may_slice).expand_kwargs(kwargs, strict=strict)

    def _check(self, mapped: Mapping[str, Any]) -> RunSpec | None:
        """Look up what is known; None while a name is still missing."""
        known = {**self._arguments, **mapped}
        return specified(known) if all(name in known for name in NEEDED) else None

    def _partial(self, *, may_slice: bool) -> OperatorPartial:
        arguments = dict(self._arguments)
        spec = self._check({})
        if spec is not None and not may_slice and arguments.get("slice") in (None, "commit"):
            # Airflow wants a mapped task's outlets before it is mapped, so only a table that is known is one, and only
            # of tasks that cannot be slices: those make nothing visible
            arguments["outlets"] = with_asset(spec, arguments.get("outlets"))
        return runtime_class(arguments.get("home")).partial(task_id=self.task_id, **arguments)


def runtime_class(home: str | None) -> type[DatakitTask]:
    """Return the operator of the environment's runtime; imports no other.

    :param home: the tree, where it is another than this Airflow's.

    :raises ConfigurationError: what it needs is not installed; names the extra that brings it.
    """
    project = chosen_project(home)
    environment = project.environment(chosen_environment(project))
    module, name = _RUNTIMES[environment.runtime]
    try:
        found: type[DatakitTask] = getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigurationError(
            f"runtime {environment.runtime!r} cannot be imported: {error}",
            subject=f"environment {environment.name!r}",
            fix=f"pip install 'airflow-provider-datakit[{environment.runtime}]'",
        ) from None
    return found
