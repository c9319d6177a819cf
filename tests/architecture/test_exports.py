"""The public names: each in one place, each explained."""

import jido_cluster
import jido_placement


def test_each_public_name_is_exported_once() -> None:
    """`__all__` lists distinct names that exist, and an alphabet helps the reader find them."""
    for package in (jido_cluster, jido_placement):
        names = list(package.__all__)
        assert len(names) == len(set(names))
        assert [name for name in names if not hasattr(package, name)] == []
    objects = [getattr(jido_cluster, name) for name in jido_cluster.__all__]
    own = [one for one in objects if callable(one)]
    assert len({id(one) for one in own}) == len(own)


def test_each_public_class_and_function_has_a_docstring() -> None:
    """What a user can import says what it is."""
    for package in (jido_cluster, jido_placement):
        for name in package.__all__:
            one = getattr(package, name)
            if callable(one) and getattr(one, "__module__", "").startswith("jido_"):
                assert (one.__doc__ or "").strip(), f"{package.__name__}.{name} has no docstring"
