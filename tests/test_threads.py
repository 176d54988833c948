"""Work on several threads side by side: the same results, under the same settings, in no more memory."""

import multiprocessing
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fgaseg.model.chunks import Chunks
from fgaseg.model.threads import available, one_thread, side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_results_come_in_order_from_threads_that_share_no_operation() -> None:
    meeting = threading.Barrier(2, timeout=20)  # broken where one thread does all

    def work(i: int) -> tuple[int, int, int]:
        meeting.wait()
        return i, torch.get_num_threads(), threading.get_ident()

    with one_thread() as threads:
        found = list(side_by_side(work, range(6), threads))
    assert [i for i, _, _ in found] == list(range(6))
    assert {each for _, each, _ in found} == {1}
    assert len({thread for _, _, thread in found}) == 2
    assert torch.get_num_threads() == 2


def test_a_single_thread_is_the_caller_s_own() -> None:
    """As with `map`; without gradients all the same."""
    weight = torch.ones(1, requires_grad=True)
    found = list(side_by_side(lambda i: (threading.get_ident(), (i * weight).requires_grad), range(3), 1))
    assert found == 3 * [(threading.get_ident(), False)]


def test_the_same_threads_work_again() -> None:
    meeting = threading.Barrier(2, timeout=20)  # broken where one thread does all

    def work(_: int) -> int:
        meeting.wait()
        return threading.get_ident()

    with one_thread():
        first, second = (set(side_by_side(work, range(4), 2)) for _ in range(2))
    assert first == second
    assert len(first) == 2


def test_a_forked_process_has_threads_of_its_own() -> None:
    """Those of its parent are not there: work handed to them would never be done."""
    with one_thread():
        list(side_by_side(abs, range(4), 2))
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=lambda: queue.put(list(side_by_side(abs, [-1, -2], 2))))
        child.start()
        child.join(30)
        child.kill()
        child.join()
    assert child.exitcode == 0
    assert queue.get() == [1, 2]


def test_work_within_work_is_done_in_turn() -> None:
    """Threads that waited for each other's items would wait for ever."""
    with one_thread():
        found = list(side_by_side(lambda i: list(side_by_side(abs, [-i, i], 2)), range(4), 2))
    assert found == [[i, i] for i in range(4)]


def test_results_are_not_kept() -> None:
    class Result:
        pass

    made: list[weakref.ref[Result]] = []

    def work(_: int) -> Result:
        result = Result()
        made.append(weakref.ref(result))
        return result

    with one_thread():
        results = side_by_side(work, range(50), 2)
        for _ in range(49):
            next(results)
        time.sleep(0.2)
        assert sum(each() is not None for each in made) <= 1
        list(results)


def test_what_was_begun_has_ended_when_items_fail() -> None:
    done: list[int] = []
    begun = threading.Barrier(3, timeout=20)

    def work(i: int) -> None:
        begun.wait()
        time.sleep(0.1)
        done.append(i)

    def items() -> Iterator[int]:
        yield from (0, 1)
        begun.wait()
        raise ValueError("broken")

    with one_thread():
        with pytest.raises(ValueError, match="broken"):
            list(side_by_side(work, items(), 2))
        assert sorted(done) == [0, 1]


@pytest.mark.parametrize("classes", [1, 3])
def test_fewer_maps_than_threads_share_each_operation(classes: int) -> None:
    seen: list[int] = []
    torch.set_num_threads(4)
    maps = torch.randn(1, classes, 64, 64, 64)

    def function(images: slice, x: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return x + 0

    with torch.no_grad(), Chunks(8).stages(maps):
        Chunks(8).by_class(function, maps)
        assert torch.get_num_threads() == 1
    assert set(seen) == {4}


def test_threads_that_are_set_aside_stay_available() -> None:
    seen: list[int] = []
    assert available() == 2
    with one_thread() as outer, one_thread() as inner:
        assert (outer, inner, available(), torch.get_num_threads()) == (2, 2, 2, 1)
        list(side_by_side(lambda _: seen.append(available()), range(4), inner))
    assert seen == [1] * 4
    assert (available(), torch.get_num_threads()) == (2, 2)


@pytest.mark.parametrize("gradient", [True, False])
def test_between_stages_of_inference_operations_leave_the_threads_alone(gradient: bool) -> None:
    maps, seen = torch.randn(1, 16, 64, 128), set[int]()
    meeting = threading.Barrier(1 if gradient else 2, timeout=20)  # broken where one thread does all

    def function(images: slice, x: Tensor) -> Tensor:
        meeting.wait()
        seen.add(threading.get_ident())
        return x + 0

    with torch.set_grad_enabled(gradient), Chunks(4).stages(maps):
        assert torch.get_num_threads() == (2 if gradient else 1)
        Chunks(4).by_class(function, maps)
    assert len(seen) == (1 if gradient else 2)
    assert torch.get_num_threads() == 2


def test_what_torch_keeps_for_each_thread_is_handed_on() -> None:
    def work(_: int) -> tuple[bool, bool, bool, torch.dtype]:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), product.dtype

    with one_thread():
        assert list(side_by_side(work, [0], 2)) == [(False, False, False, torch.float32)]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert list(side_by_side(work, [0], 2)) == [(False, True, True, torch.bfloat16)]


def test_the_first_failure_ends_the_work() -> None:
    done: list[int] = []

    def work(i: int) -> None:
        if i == 0:
            raise ValueError("broken")
        time.sleep(0.02)
        done.append(i)

    with one_thread(), pytest.raises(ValueError, match="broken"):
        list(side_by_side(work, range(500), 2))
    assert len(done) < 250
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((1, 13, 20, 512), 2), ((3, 2, 30, 512), 1)], ids=str)
def test_chunks_side_by_side_give_what_chunks_in_turn_give(shape: tuple[int, ...], size: int, overwrite: bool) -> None:
    maps, sizes, busy = torch.randn(shape), list[int](), list[int]()
    lock, at_work = threading.Lock(), 0

    def function(images: slice, x: Tensor) -> Tensor:
        nonlocal at_work
        with lock:
            at_work += x.shape[1]
            busy.append(at_work)
            sizes.append(x.shape[1])
        time.sleep(0.01)
        result = x.cumsum(2) * (images.start + 1)
        with lock:
            at_work -= x.shape[1]
        return result

    expected = torch.stack([maps[b].cumsum(1) * (b + 1) for b in range(len(maps))])
    with torch.no_grad():
        actual = Chunks(4).by_class(function, maps, overwrite=overwrite)
    assert torch.equal(actual, expected)
    assert (actual.data_ptr() == maps.data_ptr()) == overwrite
    assert max(sizes) == size
    assert len(sizes) % 2 == 0  # as many for each thread
    assert size < max(busy) <= 2 * size
    assert torch.get_num_threads() == 2


def test_the_larger_parts_come_first() -> None:
    """Whoever is done takes the next part: the last ones, which the others have to wait for, are the smaller ones."""
    sizes: list[int] = []

    def function(images: slice, x: Tensor) -> Tensor:
        sizes.append(x.shape[1])
        return x + 1

    torch.set_num_threads(1)
    maps = torch.randn(2, 13, 20, 512)
    with torch.no_grad():
        assert torch.equal(Chunks(3).by_class(function, maps), maps + 1)
    assert sizes == [3] * 6 + [2] * 4


def test_little_work_stays_on_one_thread() -> None:
    seen: set[int] = set()

    def function(images: slice, x: Tensor) -> Tensor:
        seen.add(threading.get_ident())
        return x + 1

    with torch.no_grad():
        Chunks(2).by_class(function, torch.zeros(1, 20, 10, 8))
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize(
    ("shape", "together"), [((5, 3, 4, 8), 5), ((5, 13, 20, 512), 1), ((40, 2, 16, 512), 10), ((3, 1, 60, 512), 2)], ids=str
)
@pytest.mark.parametrize("gradient", [True, False])
def test_small_images_go_together(shape: tuple[int, int, int, int], together: int, gradient: bool) -> None:
    maps, seen = torch.randn(shape), list[tuple[int, int]]()
    per_image = torch.arange(shape[0])[:, None, None, None]

    def function(images: slice, x: Tensor) -> Tensor:
        seen.append((x.shape[0], x.shape[1]))
        return x + per_image[images]

    with torch.set_grad_enabled(gradient):
        actual = Chunks(40).by_class(function, maps)
    assert torch.equal(actual, maps + per_image)
    assert sum(images * classes for images, classes in seen) == shape[0] * shape[1]
    assert max(images for images, _ in seen) == (shape[0] if gradient else together)
