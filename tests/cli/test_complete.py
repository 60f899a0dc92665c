from kvbound.cli import complete


def test_names_with_a_prefix_are_completed() -> None:
    assert complete.instances("paper-l") == ["paper-low"]
    assert complete.memories("gb") == ["gb200"]
    assert complete.llms("gp") == ["gpt2"]
    assert complete.policies("b") == ["belady", "best"]
    assert complete.policies("i") == ["ideal"]
    assert {"exact", "relax", "belady"} <= set(complete.methods(""))
    assert complete.methods("nothing") == []
    assert complete.method_lists("l") == [
        "lookahead-one",
        "lru",
        "lfu",
        "llamacpp-ngl",
        "llamacpp-nkvo",
        "llamacpp-fit",
    ]
    assert complete.method_lists("lru,b") == ["lru,brute", "lru,belady", "lru,best"]
