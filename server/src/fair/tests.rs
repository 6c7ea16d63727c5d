//! Shares and turns: examples, and a random run that holds the invariants.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::pool::{FairPool, paid};
use super::*;

fn client(number: u8) -> KeyId {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
        .parse()
        .unwrap()
}

#[test]
fn one_alone_gets_half_and_a_newcomer_finds_something() {
    let mut fair = Fair::new(64);
    let greedy = (0..64).filter(|_| fair.try_take(client(1), 1)).count();
    assert_eq!(greedy, 32);
    for newcomer in 2..6 {
        let taken = (0..64).filter(|_| fair.try_take(client(newcomer), 1)).count();
        assert!(taken > 0, "client {newcomer} got nothing");
    }
    assert!(fair.held() < 64, "nothing is left for the next");
}

/// One that holds nothing may have all of it: the largest request is served on the smallest pool.
#[test]
fn the_first_request_of_a_client_may_take_everything() {
    let mut fair = Fair::new(8);
    assert!(fair.try_take(client(1), 8));
    assert!(!fair.try_take(client(2), 1));
    fair.give_back(client(1), 8);
    assert!(fair.try_take(client(2), 1));
}

#[test]
fn clients_take_turns_whatever_they_ask() {
    let mut fair = Fair::new(1);
    assert!(fair.try_take(client(9), 1));
    let many: Vec<_> = (0..5).map(|_| fair.wait(client(1), 1)).collect();
    let one = fair.wait(client(2), 1);
    assert_eq!(fair.settle(), []);
    let mut order = Vec::new();
    let mut holder = client(9);
    for _ in 0..6 {
        fair.give_back(holder, 1);
        let granted = fair.settle();
        assert_eq!(granted.len(), 1);
        holder = granted[0].0;
        order.push(granted[0].1);
    }
    assert_eq!(order, [many[0], one, many[1], many[2], many[3], many[4]]);
}

/// Small requests do not pass a large one that waits for room, so that it gets its turn.
#[test]
fn nobody_passes_one_that_holds_nothing() {
    let mut fair = Fair::new(10);
    assert!(fair.try_take(client(1), 4));
    let large = fair.wait(client(2), 10);
    assert_eq!(fair.settle(), []);
    assert!(!fair.try_take(client(3), 1), "a small one passed");
    fair.give_back(client(1), 4);
    assert_eq!(fair.settle(), [(client(2), large, 10)]);
}

#[test]
fn what_left_the_queue_is_not_in_the_way() {
    let mut fair = Fair::new(10);
    assert!(fair.try_take(client(1), 10));
    let gone = fair.wait(client(2), 10);
    let next = fair.wait(client(3), 5);
    fair.leave(client(2), gone);
    fair.give_back(client(1), 10);
    assert_eq!(fair.settle(), [(client(3), next, 5)]);
    fair.give_back(client(3), 5);
    assert!(fair.clients.is_empty() && fair.turns.is_empty());
}

proptest! {
    /// Random takes, waits, leaves and returns: never more out than there is, everything is served in the end.
    #[test]
    fn every_wait_ends_and_nothing_is_lost(steps in proptest::collection::vec((0..4_u8, 0..5_u8, 1..20_u64), 1..200)) {
        let mut fair = Fair::new(16);
        let mut held: Vec<(KeyId, u64)> = Vec::new();
        let mut waiting: Vec<(KeyId, Ticket)> = Vec::new();
        for (what, who, units) in steps {
            let (who, units) = (client(who), fair.clamp(units));
            match what {
                0 => if fair.try_take(who, units) { held.push((who, units)) },
                1 => waiting.push((who, fair.wait(who, units))),
                2 => if let Some((who, ticket)) = waiting.pop() { fair.leave(who, ticket) },
                _ => if !held.is_empty() {
                    let (who, units) = held.remove(0);
                    fair.give_back(who, units);
                },
            }
            for (who, ticket, units) in fair.settle() {
                waiting.retain(|(_, other)| *other != ticket);
                held.push((who, units));
            }
            prop_assert_eq!(fair.held(), held.iter().map(|(_, units)| units).sum::<u64>());
        }
        while let Some((who, units)) = held.pop() {
            fair.give_back(who, units);
            for (who, ticket, units) in fair.settle() {
                waiting.retain(|(_, other)| *other != ticket);
                held.push((who, units));
            }
        }
        prop_assert!(waiting.is_empty(), "these wait for ever: {:?}", waiting);
        prop_assert_eq!(fair.held(), 0);
        prop_assert!(fair.clients.is_empty() && fair.turns.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_comes_back_with_the_last_of_the_bytes_it_paid_for() {
    let patience = Duration::from_secs(30);
    let pool = FairPool::new(4);
    let share = Arc::new(pool.take(client(1), 4, patience).await.unwrap());
    let mut bytes = paid(Bytes::from_static(b"reply"), &share);
    drop(share);
    let tail = bytes.split_off(3);
    drop(bytes);
    assert_eq!(pool.held(), 4);
    assert!(pool.take(client(2), 1, patience).await.is_none(), "patience ends");
    let waits = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.take(client(2), 1, patience).await.is_some() }
    });
    tokio::task::yield_now().await;
    drop(tail);
    assert!(waits.await.unwrap());
    assert_eq!(pool.held(), 0);
}

/// Also one that was granted while its task was being dropped.
#[tokio::test(start_paused = true)]
async fn whoever_stops_waiting_leaves_nothing_behind() {
    let patience = Duration::from_secs(30);
    let pool = FairPool::new(4);
    let all = pool.try_take(client(1), 4).unwrap();
    let mut gone = Box::pin(pool.take(client(2), 4, patience));
    assert!(futures_poll(&mut gone).is_none());
    let mut granted = Box::pin(pool.take(client(3), 2, patience));
    assert!(futures_poll(&mut granted).is_none());
    drop(gone);
    drop(all);
    assert_eq!(pool.held(), 2, "granted, not yet taken");
    drop(granted);
    assert_eq!(pool.held(), 0);
}

fn futures_poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
