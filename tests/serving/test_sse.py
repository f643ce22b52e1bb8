from serving import sse


def test_a_frame_is_the_clouds_byte_for_byte() -> None:
    expected = b'id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"output":{}}\n\n'
    assert sse.frame(1, "result", 200, b'{"output":{}}') == expected
