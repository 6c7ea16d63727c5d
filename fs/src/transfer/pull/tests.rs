//! The side of the target: in which order it is told, and what is told when it fails.

use parking_lot::Mutex;

use super::*;

/// What a target was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Data(Vec<usize>),
    Hole(u64),
    Keep(u64),
    Finish,
    BreakOff,
}

#[derive(Debug, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    /// The call that fails, counted from 0.
    fails_at: Option<usize>,
}

impl Recorder {
    fn note(&self, call: Call) -> io::Result<()> {
        let mut calls = self.calls.lock();
        calls.push(call);
        if Some(calls.len()) == self.fails_at.map(|at| at + 1) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

impl Target for Recorder {
    fn put(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Hole(len) => self.note(Call::Hole(*len)),
            Piece::Data(bytes) => self.put_run(std::slice::from_ref(bytes)),
        }
    }

    fn put_run(&mut self, run: &[Bytes]) -> io::Result<()> {
        self.note(Call::Data(run.iter().map(Bytes::len).collect()))
    }

    fn keep(&mut self, len: u64) -> io::Result<()> {
        self.note(Call::Keep(len))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.note(Call::Finish)
    }

    fn break_off(&mut self) -> io::Result<()> {
        self.note(Call::BreakOff)
    }
}

fn data(len: usize) -> Option<Move> {
    Some(Move::Put(Piece::Data(Bytes::from(vec![1; len]))))
}

/// What comes of these moves: the outcome, the calls, and the bytes of data that were counted.
fn written(
    moves: impl IntoIterator<Item = Option<Move>>,
    fails_at: Option<usize>,
) -> (io::Result<Written>, Vec<Call>, u64) {
    let recorder = Recorder {
        calls: Arc::default(),
        fails_at,
    };
    let (calls, tally) = (Arc::clone(&recorder.calls), Arc::<Tally>::default());
    let writer = Writer {
        target: Box::new(recorder),
        find_zeros: false,
        at: 0,
        left: 1 << 30,
        run: Vec::new(),
        run_bytes: 0,
        hasher: Hasher::new(None),
        tally: Arc::clone(&tally),
        stopped: Arc::default(),
        slow_holes: false,
    };
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES_MAX);
    for next in moves {
        sender.try_send(next).unwrap();
    }
    drop(sender);
    let outcome = writer.write_all(receiver);
    let calls = calls.lock().clone();
    (outcome, calls, tally.data())
}

#[test]
fn data_that_is_there_is_written_together_and_in_order() {
    let moves = [
        data(10),
        data(20),
        Some(Move::Put(Piece::Hole(5))),
        data(30),
        Some(Move::Keep(Bytes::from_static(b"kept"))),
        data(40),
        None,
    ];
    let (outcome, calls, data_bytes) = written(moves, None);
    assert!(matches!(outcome, Ok(Written::Whole(None))));
    let expected = [
        Call::Data(vec![10, 20]),
        Call::Hole(5),
        Call::Data(vec![30]),
        Call::Keep(4),
        Call::Data(vec![40]),
        Call::Finish,
    ];
    assert_eq!(calls, expected);
    assert_eq!(data_bytes, 100);
}

#[test]
fn a_run_is_bounded() {
    let part = usize::try_from(RUN_BYTES_MAX / 2).unwrap();
    let (_, calls, _) = written([data(part), data(part), data(1), None], None);
    assert_eq!(
        calls,
        [Call::Data(vec![part, part]), Call::Data(vec![1]), Call::Finish]
    );
}

#[test]
fn what_fails_is_told_and_nothing_follows() {
    let moves = [
        data(10),
        Some(Move::Put(Piece::Hole(5))),
        data(20),
        Some(Move::Put(Piece::Hole(5))),
        None,
    ];
    let (outcome, calls, data_bytes) = written(moves, Some(2));
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(calls.len(), 3);
    assert_eq!(data_bytes, 10, "what failed does not count");
}

#[test]
fn what_came_before_the_end_of_the_fetching_is_kept() {
    let (outcome, calls, data_bytes) = written([data(10), data(20)], None);
    assert!(matches!(outcome, Ok(Written::BrokenOff)));
    assert_eq!(calls, [Call::Data(vec![10, 20]), Call::BreakOff]);
    assert_eq!(data_bytes, 30);
}
