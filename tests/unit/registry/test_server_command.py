"""The command line of an etcd names its members to each other, and nobody where there is one."""

from relaygr.registry.server import command


def value(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def test_one_member_is_the_whole_cluster():
    assert value(command("d", "h:1", "h:2"), "--initial-cluster") == "n1=http://h:2"


def test_all_members_agree_on_who_they_are():
    one = command("d", "h:1", "h:2", name="a", others={"b": "h:4"})
    other = command("e", "h:3", "h:4", name="b", others={"a": "h:2"})
    assert value(one, "--initial-cluster") == value(other, "--initial-cluster") == "a=http://h:2,b=http://h:4"
    assert (value(one, "--name"), value(other, "--name")) == ("a", "b")
