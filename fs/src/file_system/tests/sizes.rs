//! What a request takes while it waits. Its future is moved into a task: a large one costs more than the request.

use super::*;

const SMALL: usize = 8 << 10;

#[tokio::test]
async fn what_is_asked_often_is_small() {
    let remote = MemoryRemote::default();
    let (fs, _, open) = created(&remote).await;
    let whole = ByteRange::at(0, 4096).unwrap();
    let sizes = [
        ("read", size_of_val(&fs.read(open, whole))),
        ("direct read", size_of_val(&fs.read_direct(open, whole))),
        ("seek", size_of_val(&fs.seek(open, 0, Whence::Data))),
        ("write", size_of_val(&fs.write(open, 0, b"", Reach::Here))),
        ("flush", size_of_val(&fs.flush(open, true))),
        ("drain", size_of_val(&fs.drain(open))),
    ];
    for (what, bytes) in sizes {
        assert!(bytes <= SMALL, "a {what} takes {bytes} bytes");
    }
}
