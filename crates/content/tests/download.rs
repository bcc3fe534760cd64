//! Whom the download machine asks for what, case by case.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sparewire_content::{
    BLOCK_LEN, Bitfield, Block, CHOKED_MS, CHOKING_MS, Download, DownloadSetup, DropReason,
    Geometry, LATE_MAX, LEAVES_MS, OPEN_BLOCKS_MAX, Order, PAID_TWICE_MAX, PATIENCE_MS, PEERS_MAX,
    PeerId, QUEUE_MAX, QUEUE_MIN, SPENT_MS, STALL_MS, STALLS_MAX, Supply, TICK_MS, UNASKED_MAX,
    VOID_MS, Verdict,
};
use sparewire_core::{ByteCount, Price, Timestamp};
use sparewire_protocol::CHECKPOINT_MS;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);
const FREE: u128 = 0;
const ALL: u64 = u64::MAX;

/// A download with a clock, and what it has ordered.
struct Case {
    download: Download,
    now: u64,
}

impl Case {
    fn new(blocks_per_piece: u32, pieces: u32, by_block: bool) -> Self {
        let geometry =
            Geometry::new(BLOCK_LEN * blocks_per_piece, pieces, BTreeMap::new()).unwrap();
        let download = Download::new(DownloadSetup {
            geometry: Arc::new(geometry),
            have: Bitfield::none(pieces),
            by_block,
            price_max: price(100),
            random: 0,
            now: Timestamp::from_ms(0),
        });
        Self { download, now: 0 }
    }

    /// A peer that has everything, for a price, and may send `allowed` bytes.
    fn seed(&mut self, peer: PeerId, units: u128, allowed: u64) -> Vec<Order> {
        self.download.peer_joined(peer, Supply { price: Some(price(units)), queue_max: 250 });
        self.download.have_all(peer);
        if units > 0 && allowed > 0 {
            self.download.allow(peer, ByteCount::new(allowed));
        }
        self.download.unchoked(peer);
        self.orders()
    }

    fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.download.poll_order()).collect()
    }

    fn arrived(&mut self, peer: PeerId, block: Block) -> Verdict {
        self.download.arrived(peer, block, Timestamp::from_ms(self.now))
    }

    /// Time goes on by `ms`, tick by tick.
    fn wait(&mut self, ms: u64) -> Vec<Order> {
        let mut orders = Vec::new();
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + TICK_MS).min(end);
            self.download.tick(Timestamp::from_ms(self.now));
            orders.extend(self.orders());
        }
        orders
    }

    /// All these blocks come and pass.
    fn pass(&mut self, peer: PeerId, blocks: &[Block]) {
        for block in blocks {
            assert_eq!(self.arrived(peer, *block), Verdict::Wanted);
            self.download.passed(*block);
        }
    }
}

fn price(units: u128) -> Price {
    Price::per_gib(units).unwrap()
}

fn block(piece: u32, number: u32) -> Block {
    Block { piece, begin: number * BLOCK_LEN, len: BLOCK_LEN }
}

fn asked(orders: &[Order], of: PeerId) -> Vec<Block> {
    let of = |order: &Order| match order {
        Order::Request(peer, block) if *peer == of => Some(*block),
        _ => None,
    };
    orders.iter().filter_map(of).collect()
}

fn pieces(blocks: &[Block]) -> BTreeSet<u32> {
    blocks.iter().map(|block| block.piece).collect()
}

#[test]
fn the_rarest_piece_is_begun_first() {
    let mut case = Case::new(8, 8, false);
    for (peer, bits) in [(A, 0b1111_0000), (B, 0b1101_0000), (C, 0b1001_0000)] {
        let supply = Supply { price: Some(Price::FREE), queue_max: 1 };
        case.download.peer_joined(peer, supply);
        case.download.bitfield(peer, &[bits]);
    }
    case.download.unchoked(A);
    assert_eq!(asked(&case.orders(), A), [block(2, 0)], "which only A has");
    case.download.unchoked(B);
    assert_eq!(asked(&case.orders(), B), [block(1, 0)], "which two have, and the others three");
}

#[test]
fn each_peer_has_a_piece_to_itself_where_pieces_are_judged_as_a_whole() {
    let mut case = Case::new(QUEUE_MIN, 3, false);
    let (of_a, of_b) = (case.seed(A, FREE, ALL), case.seed(B, FREE, ALL));
    let (of_a, of_b) = (pieces(&asked(&of_a, A)), pieces(&asked(&of_b, B)));
    assert_eq!((of_a.len(), of_b.len()), (1, 1));
    assert_ne!(of_a, of_b);
}

#[test]
fn a_priced_peer_is_asked_for_what_is_allowed_and_no_more() {
    let mut case = Case::new(16, 4, true);
    let first = case.seed(A, 5, 0);
    let more = case.wait(TICK_MS);
    assert_eq!(asked(&[first, more].concat(), A), [], "nothing is allowed yet");
    case.download.allow(A, ByteCount::new(3 * u64::from(BLOCK_LEN) + 5));
    let blocks = asked(&case.orders(), A);
    assert_eq!(blocks.len(), 3);
    case.download.leaves_known(blocks[0].piece);
    case.pass(A, &blocks);
    assert_eq!(asked(&case.orders(), A), [], "what came still counts");
    case.download.allow(A, ByteCount::new(5 * u64::from(BLOCK_LEN)));
    assert_eq!(asked(&case.orders(), A).len(), 2);
    assert_eq!(asked(&case.wait(TICK_MS), A), []);
}

#[test]
fn a_piece_is_begun_with_a_priced_peer_only_if_all_of_it_is_allowed() {
    let mut case = Case::new(4, 2, false);
    let piece_len = 4 * u64::from(BLOCK_LEN);
    case.seed(A, 5, piece_len - 1);
    assert_eq!(asked(&case.wait(TICK_MS), A), []);
    case.download.allow(A, ByteCount::new(piece_len));
    assert_eq!(asked(&case.orders(), A).len(), 4);
}

#[test]
fn a_peer_dearer_than_the_most_that_may_be_paid_is_never_asked() {
    let mut case = Case::new(4, 2, false);
    case.seed(A, 101, ALL);
    assert_eq!(case.wait(20 * PATIENCE_MS), []);
    case.download.priced(A, price(100));
    assert!(case.wait(TICK_MS).contains(&Order::Interested(A)));
}

#[test]
fn nothing_is_asked_of_a_peer_whose_price_is_not_known() {
    let mut case = Case::new(4, 2, false);
    case.download.peer_joined(A, Supply { price: None, queue_max: 250 });
    case.download.have_all(A);
    case.download.unchoked(A);
    assert_eq!(case.wait(1_000), []);
    case.download.priced(A, Price::FREE);
    assert_eq!(asked(&case.orders(), A).len(), 8);
}

#[test]
fn free_peers_are_asked_first_and_paid_ones_when_nothing_comes() {
    let mut case = Case::new(4, 8, false);
    let mut orders = case.seed(A, FREE, ALL);
    orders.extend(case.seed(B, 5, ALL));
    orders.extend(case.wait(PATIENCE_MS - TICK_MS));
    assert!(orders.contains(&Order::Interested(A)) && !orders.contains(&Order::Interested(B)));
    let orders = case.wait(2 * TICK_MS);
    assert!(orders.contains(&Order::Interested(B)));
    assert_eq!(asked(&orders, B).len(), QUEUE_MIN as usize);
    assert_eq!(case.download.price_ceiling(), price(5));
}

#[test]
fn a_peer_is_asked_for_as_much_as_it_sends_in_a_second() {
    let mut case = Case::new(64, 100, false);
    let mut owed = asked(&case.seed(A, FREE, ALL), A);
    assert_eq!(owed.len(), QUEUE_MIN as usize);
    let mut most = 0;
    for _ in 0..30 {
        // 100 blocks a second at most.
        let sends = owed.len().min(10);
        for block in owed.drain(..sends).collect::<Vec<_>>() {
            assert_eq!(case.arrived(A, block), Verdict::Wanted);
        }
        owed.extend(asked(&case.orders(), A));
        owed.extend(asked(&case.wait(TICK_MS), A));
        most = owed.len();
    }
    assert!((90..=110 + QUEUE_MIN as usize).contains(&most), "{most} blocks");
}

#[test]
fn what_a_stalled_peer_owes_is_asked_of_another_and_may_still_come() {
    let mut case = Case::new(1, 4, true);
    let owed = asked(&case.seed(A, FREE, ALL), A);
    assert_eq!(owed.len(), 4);
    case.wait(STALL_MS - 2 * TICK_MS);
    let none = case.seed(B, FREE, 0);
    assert_eq!(asked(&none, B).len(), 4, "near the end, of one that has been silent for long");
    let orders = case.wait(3 * TICK_MS);
    assert_eq!(orders.iter().filter(|order| matches!(order, Order::Cancel(A, _))).count(), 4);
    // First come, first counted; each of both was asked.
    assert_eq!(case.arrived(A, owed[0]), Verdict::Wanted);
    assert!(case.orders().contains(&Order::Cancel(B, owed[0])));
    assert_eq!(case.arrived(B, owed[0]), Verdict::Duplicate);
    assert_eq!(case.arrived(B, owed[0]), Verdict::Unasked);
    assert_eq!(case.arrived(B, owed[1]), Verdict::Wanted);
    assert_eq!(case.arrived(A, owed[1]), Verdict::Duplicate);
    assert_eq!(case.arrived(C, owed[2]), Verdict::Unasked);
}

#[test]
fn a_peer_that_stalls_again_and_again_is_dropped_but_a_clock_that_jumps_is_no_stall() {
    let mut case = Case::new(4, 4, false);
    case.seed(A, FREE, ALL);
    case.now += 100 * STALL_MS;
    assert_eq!(case.wait(TICK_MS), []);
    let orders = case.wait(STALL_MS * (1 << STALLS_MAX));
    assert!(orders.contains(&Order::Drop(A, DropReason::Stalled)));
    let cancelled = orders.iter().filter(|order| matches!(order, Order::Cancel(..))).count();
    assert_eq!(cancelled as u32, QUEUE_MIN * (STALLS_MAX - 1));
}

#[test]
fn near_the_end_a_slow_peers_blocks_are_asked_of_a_fast_one_and_of_no_third() {
    let mut case = Case::new(1, 16, true);
    let slow = asked(&case.seed(A, FREE, ALL), A);
    let fast = asked(&case.seed(B, FREE, ALL), B);
    assert_eq!((slow.len(), fast.len()), (8, 8));
    case.wait(300);
    case.pass(B, &fast);
    let doubled = asked(&case.wait(1_000), B);
    assert_eq!(pieces(&doubled), pieces(&slow));
    let third = case.seed(C, FREE, ALL);
    assert_eq!(asked(&[third, case.wait(2_000)].concat(), C), []);
    case.pass(B, &doubled);
    let orders = case.orders();
    assert!(slow.iter().all(|block| orders.contains(&Order::Cancel(A, *block))));
    assert!(orders.contains(&Order::Complete));
    assert!(case.download.is_complete());
}

#[test]
fn no_more_copies_than_the_bound_are_paid_for_twice() {
    let mut case = Case::new(1, 200, true);
    case.seed(A, 5, ALL);
    // A sends a little, so that it is asked for much; then it stalls.
    let mut owed = asked(&case.wait(TICK_MS), A);
    while owed.len() < 150 {
        let first = owed.remove(0);
        case.pass(A, &[first]);
        owed.extend(asked(&case.orders(), A));
        let had = case.download.pieces_had().count() as usize;
        if owed.len() + had == 200 {
            break;
        }
    }
    let owed: Vec<Block> = owed;
    assert!(owed.len() > PAID_TWICE_MAX as usize + 10, "{}", owed.len());
    let mut of_b = asked(&case.seed(B, 5, ALL), B);
    while !case.download.is_complete() {
        for block in std::mem::take(&mut of_b) {
            if case.arrived(B, block) == Verdict::Wanted {
                case.download.passed(block);
            }
        }
        of_b = asked(&case.wait(TICK_MS), B);
        assert!(case.now < 100_000);
    }
    let verdicts: Vec<Verdict> = owed.iter().map(|block| case.arrived(A, *block)).collect();
    let paid = verdicts.iter().filter(|verdict| **verdict == Verdict::Duplicate).count();
    assert_eq!(paid as u32, PAID_TWICE_MAX);
    assert_eq!(case.download.paid_twice(), PAID_TWICE_MAX);
    assert!(!verdicts.contains(&Verdict::Wanted));
}

#[test]
fn who_sends_a_bad_block_is_dropped_and_the_block_is_asked_of_another() {
    let mut case = Case::new(2, 1, true);
    let owed = asked(&case.seed(A, FREE, ALL), A);
    case.download.leaves_known(0);
    assert_eq!(case.arrived(A, owed[0]), Verdict::Wanted);
    case.seed(B, FREE, ALL);
    case.download.block_failed(A, owed[0]);
    let orders = case.orders();
    assert!(orders.contains(&Order::Drop(A, DropReason::BadData)));
    assert_eq!(asked(&orders, B).len(), 2);
    assert_eq!(case.arrived(A, owed[1]), Verdict::Unasked);
}

#[test]
fn who_spoiled_a_piece_among_others_is_found_out() {
    let mut case = Case::new(2, 1, false);
    for peer in [A, B] {
        case.download.peer_joined(peer, Supply { price: Some(Price::FREE), queue_max: 1 });
        case.download.have_all(peer);
        case.download.unchoked(peer);
    }
    let orders = case.orders();
    let (of_a, of_b) = (asked(&orders, A)[0], asked(&orders, B)[0]);
    assert_ne!(of_a, of_b);
    case.arrived(A, of_a);
    case.arrived(B, of_b);
    assert_eq!(case.orders(), [Order::Check(0)]);
    let digests = |bad: Option<Block>| {
        let digest = |at| if bad == Some(block(0, at)) { 666 } else { u64::from(at) };
        [digest(0), digest(1)]
    };
    case.download.piece_failed(0, &digests(Some(of_b)));
    assert!(case.download.wants_digests(0));
    // Somebody else sends it, alone.
    let orders = case.seed(C, FREE, ALL);
    let from: BTreeSet<PeerId> = orders
        .iter()
        .filter_map(|order| match order {
            Order::Request(peer, _) => Some(*peer),
            _ => None,
        })
        .collect();
    assert_eq!(from.len(), 1, "{orders:?}");
    let alone = *from.first().unwrap();
    let mut owed = asked(&orders, alone);
    while let Some(block) = owed.pop() {
        assert_eq!(case.arrived(alone, block), Verdict::Wanted);
        let orders = case.orders();
        owed.extend(asked(&orders, alone));
        assert!([A, B, C].iter().all(|peer| *peer == alone || asked(&orders, *peer).is_empty()));
    }
    case.download.piece_passed(0, &digests(None));
    let orders = case.orders();
    let dropped: Vec<&Order> =
        orders.iter().filter(|order| matches!(order, Order::Drop(..))).collect();
    assert_eq!(dropped, [&Order::Drop(B, DropReason::BadData)]);
    assert!(orders.contains(&Order::Complete));
}

#[test]
fn who_alone_sent_a_bad_piece_is_dropped_at_once() {
    let mut case = Case::new(2, 1, false);
    for block in asked(&case.seed(A, FREE, ALL), A) {
        case.arrived(A, block);
    }
    assert_eq!(case.orders(), [Order::Check(0)]);
    case.download.piece_failed(0, &[1, 2]);
    assert_eq!(case.orders(), [Order::Drop(A, DropReason::BadData)]);
    assert!(!case.download.wants_digests(0));
}

#[test]
fn what_has_passed_is_kept_when_its_peer_leaves_and_over_a_restart() {
    let mut case = Case::new(8, 2, true);
    let owed = asked(&case.seed(A, FREE, ALL), A);
    case.download.leaves_known(owed[0].piece);
    case.pass(A, &owed[..3]);
    case.download.peer_left(A);
    let kept: Vec<Block> = case.download.passed_blocks().collect();
    assert_eq!(kept, owed[..3]);
    assert_eq!(case.download.passed_bytes(), ByteCount::new(3 * u64::from(BLOCK_LEN)));
    let again = asked(&case.seed(B, FREE, ALL), B);
    assert!(kept.iter().all(|block| !again.contains(block)));
    assert_eq!(again[0].piece, owed[0].piece, "what is begun is finished first");

    let mut restarted = Case::new(8, 2, true);
    kept.iter().for_each(|block| restarted.download.keep(*block));
    assert_eq!(restarted.download.passed_blocks().collect::<Vec<_>>(), kept);
    assert_eq!(restarted.download.passed_bytes(), ByteCount::new(3 * u64::from(BLOCK_LEN)));
    let again = asked(&restarted.seed(A, FREE, ALL), A);
    assert!(kept.iter().all(|block| !again.contains(block)));
}

#[test]
fn leaf_hashes_that_are_here_from_the_start_are_asked_of_nobody() {
    let mut case = Case::new(4, 2, true);
    case.download.leaves_known(0);
    case.download.keep(block(0, 1));
    let orders = case.seed(A, FREE, ALL);
    let leaves = |order: &&Order| matches!(order, Order::AskLeaves(..));
    assert_eq!(orders.iter().filter(leaves).collect::<Vec<_>>(), [&Order::AskLeaves(A, 1)]);
    case.pass(A, &[block(0, 0), block(0, 2), block(0, 3)]);
    assert!(case.orders().contains(&Order::Have(0)));
}

#[test]
fn where_a_block_was_kept_that_nothing_proved_no_peer_is_blamed_for_it() {
    let kept = block(0, 1);
    let mut case = Case::new(3, 1, false);
    case.download.keep(kept);
    let orders = case.seed(A, FREE, ALL);
    assert_eq!(asked(&orders, A), [block(0, 0), block(0, 2)]);
    for number in [0, 2] {
        case.arrived(A, block(0, number));
    }
    assert_eq!(case.orders(), [Order::Check(0)]);
    case.download.piece_failed(0, &[0, 666, 2]);
    // All of it anew, from the same peer, which is still here.
    assert_eq!(asked(&case.orders(), A), [0, 1, 2].map(|number| block(0, number)));
    assert_eq!(case.download.passed_bytes(), ByteCount::ZERO);
    for number in [0, 1, 2] {
        case.arrived(A, block(0, number));
    }
    assert_eq!(case.orders(), [Order::Check(0)]);
    assert!(case.download.wants_digests(0));
    case.download.piece_passed(0, &[0, 1, 2]);
    let orders = case.orders();
    assert!(!orders.iter().any(|order| matches!(order, Order::Drop(..))), "{orders:?}");
    assert!(orders.contains(&Order::Complete));
}

#[test]
fn who_spoiled_a_piece_of_which_a_block_was_kept_is_found_out() {
    let mut case = Case::new(2, 1, false);
    case.download.keep(block(0, 1));
    assert_eq!(asked(&case.seed(A, FREE, ALL), A), [block(0, 0)]);
    case.arrived(A, block(0, 0));
    assert_eq!(case.orders(), [Order::Check(0)]);
    case.download.piece_failed(0, &[666, 1]);
    case.orders();
    for number in [0, 1] {
        case.arrived(A, block(0, number));
    }
    case.orders();
    // It has sent another block than before, and the piece is good.
    case.download.piece_passed(0, &[0, 1]);
    assert!(case.orders().contains(&Order::Drop(A, DropReason::BadData)));
}

#[test]
fn a_choke_frees_what_was_asked_and_what_comes_long_after_it_does_not_count() {
    let mut case = Case::new(4, 2, false);
    let owed = asked(&case.seed(A, FREE, ALL), A);
    case.download.choked(A);
    let orders = case.orders();
    assert!(owed.iter().all(|block| orders.contains(&Order::Cancel(A, *block))));
    assert_eq!(asked(&case.seed(B, FREE, ALL), B).len(), 8);
    case.download.peer_left(B);
    case.download.unchoked(A);
    assert_eq!(asked(&case.orders(), A), [], "it has just choked");
    assert_eq!(asked(&case.wait(CHOKED_MS + TICK_MS), A).len(), 8);
    case.download.choked(A);
    case.wait(VOID_MS);
    assert_eq!(case.arrived(A, owed[0]), Verdict::Unasked);
}

/// A seller that may send 4 blocks was asked for 4, chokes and unchokes at once.
fn unchoked_at_once(blocks_per_piece: u32) -> (Case, Vec<Block>) {
    let mut case = Case::new(blocks_per_piece, 200, true);
    case.download.leaves_known(0);
    case.seed(A, 5, 4 * u64::from(BLOCK_LEN));
    let owed = asked(&case.wait(TICK_MS), A);
    assert_eq!(owed.len(), 4);
    case.download.choked(A);
    case.download.unchoked(A);
    (case, owed)
}

#[test]
fn what_a_seller_takes_for_new_after_its_choke_counts_and_takes_up_its_credit() {
    let (mut case, owed) = unchoked_at_once(1);
    assert_eq!(asked(&case.wait(VOID_MS - TICK_MS), A), [], "it may still send all of it");
    // It sends some, slowly: then the rest may come too.
    case.pass(A, &owed[..2]);
    assert_eq!(asked(&case.wait(VOID_MS - TICK_MS), A), []);
    case.download.allow(A, ByteCount::new(6 * u64::from(BLOCK_LEN)));
    let more = asked(&case.orders(), A);
    assert_eq!(more.len(), 2, "what has come, may come and is asked for: 2 each");
    case.pass(A, &owed[2..3]);
    assert_eq!(asked(&case.orders(), A), []);
}

#[test]
fn what_a_seller_forgot_with_its_choke_is_asked_of_it_again_and_it_is_not_left() {
    let (mut case, owed) = unchoked_at_once(8);
    let orders = case.wait(VOID_MS + TICK_MS);
    assert_eq!(asked(&orders, A), owed);
    assert!(!orders.iter().any(|order| matches!(order, Order::Drop(..))), "{orders:?}");
}

#[test]
fn a_block_that_comes_of_what_was_asked_after_a_choke_frees_the_credit_at_once() {
    let (mut case, owed) = unchoked_at_once(1);
    case.download.allow(A, ByteCount::new(6 * u64::from(BLOCK_LEN)));
    let new = asked(&case.wait(CHOKED_MS + TICK_MS), A);
    let new: Vec<Block> = new.into_iter().filter(|block| !owed.contains(block)).collect();
    assert_eq!(new.len(), 1, "and one that it was asked for before");
    // Had it the others, it would have heard that they are cancelled before it heard of this.
    case.pass(A, &new);
    assert_eq!(asked(&case.orders(), A).len(), 4, "all of it but what has come");
    assert_eq!(case.arrived(A, owed[0]), Verdict::Unasked);
}

#[test]
fn a_copy_of_what_was_asked_before_and_after_a_choke_frees_nothing() {
    let (mut case, owed) = unchoked_at_once(8);
    case.download.allow(A, ByteCount::new(5 * u64::from(BLOCK_LEN)));
    let again = asked(&case.wait(CHOKED_MS + TICK_MS), A);
    assert_eq!(again, owed[..1]);
    case.pass(A, &again);
    let orders = case.orders();
    assert_eq!(asked(&orders, A), [], "this may be the first copy, and the rest follow");
    assert!(orders.contains(&Order::Cancel(A, owed[0])), "of which only one is wanted");
    assert_eq!(case.arrived(A, owed[0]), Verdict::Duplicate);
    case.pass(A, &owed[1..]);
    assert_eq!(asked(&case.wait(2 * VOID_MS), A), [], "all that was allowed has come");
}

#[test]
fn after_a_copy_only_what_is_asked_for_later_frees_the_credit() {
    let (mut case, owed) = unchoked_at_once(1);
    case.download.allow(A, ByteCount::new(6 * u64::from(BLOCK_LEN)));
    let new = asked(&case.wait(CHOKED_MS + TICK_MS), A);
    assert_eq!((new.len(), owed.contains(&new[0]), owed.contains(&new[1])), (2, true, false));
    case.pass(A, &new);
    assert_eq!(
        asked(&case.wait(TICK_MS), A),
        [],
        "the second may have been served before a cancel"
    );
    case.download.allow(A, ByteCount::new(7 * u64::from(BLOCK_LEN)));
    let later = asked(&case.orders(), A);
    assert_eq!(later.len(), 1);
    case.pass(A, &later);
    assert_eq!(asked(&case.orders(), A).len(), 4);
}

#[test]
fn what_a_seller_says_that_it_will_not_send_after_a_choke_is_asked_of_it_again() {
    let (mut case, owed) = unchoked_at_once(1);
    owed[1..].iter().for_each(|block| case.download.rejected(A, *block));
    assert_eq!(asked(&case.wait(CHOKED_MS + TICK_MS), A).len(), 3);
}

#[test]
fn what_was_cancelled_before_a_choke_takes_up_credit_no_longer_than_what_was_owed() {
    let mut case = Case::new(1, 200, true);
    case.seed(A, 5, 4 * u64::from(BLOCK_LEN));
    let owed = asked(&case.wait(TICK_MS), A);
    assert_eq!(owed.len(), 4);
    // They turn out to be here, and are cancelled.
    owed.iter().for_each(|block| case.download.piece_passed(block.piece, &[]));
    case.download.choked(A);
    case.download.unchoked(A);
    assert_eq!(asked(&case.wait(VOID_MS - TICK_MS), A), []);
    assert_eq!(asked(&case.wait(2 * TICK_MS), A).len(), 4, "long before LATE_MS");
}

#[test]
fn no_more_is_asked_of_a_seller_that_chokes_than_there_is_room_for() {
    let mut case = Case::new(1, 2_000, true);
    case.seed(A, 5, ALL);
    let mut owed = asked(&case.wait(TICK_MS), A);
    while owed.len() < 240 {
        let first = owed.remove(0);
        case.pass(A, &[first]);
        owed.extend(asked(&case.orders(), A));
    }
    let mut may_come = owed.len();
    for _ in 0..6 {
        case.download.choked(A);
        case.download.unchoked(A);
        may_come += asked(&case.wait(CHOKED_MS + TICK_MS), A).len();
    }
    assert_eq!(may_come, LATE_MAX + QUEUE_MAX as usize);
}

#[test]
fn a_seller_that_chokes_every_few_seconds_still_gets_on() {
    for every in [1_500, 3_000, 7_000] {
        let mut case = Case::new(1, 40, true);
        let credit = 4 * u64::from(BLOCK_LEN);
        let mut owed = asked(&case.seed(A, 5, credit), A);
        let mut sent = 0;
        while !case.download.is_complete() {
            // It forgets what it owes, and sends a block each half second else.
            if case.now.is_multiple_of(every) {
                owed.clear();
                case.download.choked(A);
                case.download.unchoked(A);
            } else if let Some(block) = owed.pop().filter(|_| case.now.is_multiple_of(500)) {
                case.pass(A, &[block]);
                sent += u64::from(BLOCK_LEN);
                case.download.allow(A, ByteCount::new(sent + credit));
            }
            let orders = [case.orders(), case.wait(TICK_MS)].concat();
            let is_drop = |order: &Order| matches!(order, Order::Drop(..));
            assert!(!orders.iter().any(is_drop), "{orders:?}");
            owed.extend(asked(&orders, A));
            assert!(case.now < 60 * VOID_MS, "{every}: {sent}");
        }
    }
}

#[test]
fn what_a_peer_refuses_is_not_asked_of_it_again() {
    let mut case = Case::new(4, 1, false);
    let owed = asked(&case.seed(A, FREE, ALL), A);
    case.download.rejected(A, owed[1]);
    let orders = case.wait(60_000);
    assert_eq!(asked(&orders, A), []);
    assert!(orders.contains(&Order::NotInterested(A)));
    assert_eq!(asked(&case.seed(B, FREE, ALL), B).len(), 4);
}

#[test]
fn records_of_blocks_are_bounded_and_stranded_pieces_make_room() {
    let per_piece = 4096;
    let room = (OPEN_BLOCKS_MAX / u64::from(per_piece)) as u32;
    let mut case = Case::new(per_piece, 3 * room, false);
    let mut begun = BTreeSet::new();
    for peer in 0..2 * room {
        let orders = case.seed(PeerId(peer), FREE, ALL);
        let owed = asked(&orders, PeerId(peer));
        assert_eq!(owed.len(), QUEUE_MIN as usize, "who finds no room helps others");
        begun.extend(pieces(&owed));
        assert_eq!(case.arrived(PeerId(peer), owed[0]), Verdict::Wanted);
    }
    assert_eq!(begun.len() as u32, room);
    case.orders();
    for peer in 0..2 * room {
        case.download.peer_left(PeerId(peer));
    }
    assert!(!case.orders().iter().any(|order| matches!(order, Order::Forget(_))));
    // Only a peer without any of these pieces is left.
    let mut others = Bitfield::all(3 * room);
    begun.iter().for_each(|piece| assert!(others.remove(*piece)));
    case.download.peer_joined(A, Supply { price: Some(Price::FREE), queue_max: 250 });
    case.download.bitfield(A, &others.to_bytes());
    case.download.unchoked(A);
    let orders = case.orders();
    assert_eq!(asked(&orders, A).len(), QUEUE_MIN as usize);
    assert_eq!(orders.iter().filter(|order| matches!(order, Order::Forget(_))).count(), 1);
}

#[test]
fn leaf_hashes_are_asked_for_before_the_blocks_and_of_another_where_they_are_refused() {
    let mut case = Case::new(2, 1, true);
    let orders = case.seed(A, FREE, ALL);
    let leaves = orders.iter().position(|order| *order == Order::AskLeaves(A, 0)).unwrap();
    let first = orders.iter().position(|order| matches!(order, Order::Request(..))).unwrap();
    assert!(leaves < first);
    case.seed(B, FREE, ALL);
    case.download.leaves_refused(A, 0);
    assert!(case.orders().contains(&Order::AskLeaves(B, 0)));
    for block in asked(&orders, A) {
        assert_eq!(case.arrived(A, block), Verdict::Wanted);
    }
    assert_eq!(case.orders(), [], "the hashes may come");
    let orders = case.wait(LEAVES_MS + TICK_MS);
    assert!(orders.contains(&Order::Check(0)), "nobody gives them: judged as a whole");
    case.download.piece_passed(0, &[]);
    assert!(case.orders().contains(&Order::Complete));
}

#[test]
fn who_sells_blocks_and_gives_no_hashes_is_dropped() {
    let mut case = Case::new(2, 1, true);
    case.seed(A, 5, ALL);
    assert!(case.wait(TICK_MS).contains(&Order::AskLeaves(A, 0)));
    case.download.leaves_refused(A, 0);
    assert!(case.orders().contains(&Order::Drop(A, DropReason::NoHashes)));
}

#[test]
fn a_seller_whose_credit_is_taken_up_is_dropped_so_that_a_new_session_can_begin() {
    let mut case = Case::new(2, 4, false);
    case.seed(A, 5, 3 * u64::from(BLOCK_LEN));
    let owed = asked(&case.wait(TICK_MS), A);
    assert_eq!(owed.len(), 2, "one piece, of 32 KiB");
    for block in owed {
        case.arrived(A, block);
    }
    // What is less than a step is paid after so long: it is waited for.
    let orders = case.wait(CHECKPOINT_MS + 5 * TICK_MS);
    let dropped = |order: &Order| matches!(order, Order::Drop(..));
    assert!(!orders.iter().any(dropped), "it may still be paid: {orders:?}");
    let orders = case.wait(SPENT_MS - CHECKPOINT_MS);
    assert!(orders.contains(&Order::Drop(A, DropReason::Spent)), "{orders:?}");
}

#[test]
fn a_seller_that_could_be_paid_and_never_answers_requests_is_dropped() {
    let mut case = Case::new(4, 4, true);
    case.download.peer_joined(A, Supply { price: Some(price(5)), queue_max: 250 });
    case.download.have_all(A);
    assert!(case.wait(2 * CHOKING_MS).contains(&Order::Interested(A)), "its session may take long");
    case.download.allow(A, ByteCount::new(1 << 20));
    assert_eq!(case.wait(CHOKING_MS - TICK_MS), []);
    assert_eq!(case.wait(TICK_MS), [Order::Drop(A, DropReason::Stalled)]);
    // One that has answered, and waits for its turn, has as long again.
    let owed = asked(&case.seed(B, 5, 1 << 20), B);
    case.wait(5_000);
    case.pass(B, &owed[..1]);
    case.download.choked(B);
    let orders = case.wait(CHOKING_MS - TICK_MS);
    assert!(!orders.iter().any(|order| matches!(order, Order::Drop(..))));
    assert_eq!(case.wait(TICK_MS), [Order::Drop(B, DropReason::Stalled)]);
}

#[test]
fn a_seller_that_chokes_and_unchokes_and_sends_nothing_is_dropped() {
    let mut case = Case::new(4, 4, true);
    let mut orders = case.seed(A, 5, 1 << 20);
    for _ in 0..=CHOKING_MS / 12_000 {
        orders.extend(case.wait(1_000));
        case.download.choked(A);
        orders.extend(case.wait(11_000));
        case.download.unchoked(A);
    }
    assert!(asked(&orders, A).len() > QUEUE_MIN as usize, "it is asked again");
    assert!(orders.contains(&Order::Drop(A, DropReason::Stalled)));
    // One of which nothing is wanted for long is not.
    let mut case = Case::new(1, 1, true);
    case.download.peer_joined(B, Supply { price: Some(price(5)), queue_max: 250 });
    case.download.allow(B, ByteCount::new(1 << 20));
    case.download.unchoked(B);
    assert_eq!(case.wait(2 * CHOKING_MS), []);
    case.download.have_all(B);
    let orders = case.wait(PATIENCE_MS + TICK_MS);
    assert_eq!(asked(&orders, B).len(), 1, "{orders:?}");
}

#[test]
fn who_lies_about_pieces_or_floods_is_dropped() {
    let mut case = Case::new(2, 4, false);
    case.seed(A, FREE, ALL);
    case.download.have(A, 4);
    assert!(case.orders().contains(&Order::Drop(A, DropReason::BadPiece)));
    case.seed(B, FREE, ALL);
    case.download.bitfield(B, &[0xff]);
    assert!(case.orders().contains(&Order::Drop(B, DropReason::BadPiece)));
    case.seed(C, FREE, ALL);
    for _ in 0..UNASKED_MAX {
        assert_eq!(case.arrived(C, Block { len: 1, ..block(0, 0) }), Verdict::Unasked);
    }
    assert!(case.orders().contains(&Order::Drop(C, DropReason::Unasked)));
    for peer in 0..=PEERS_MAX as u32 {
        case.download
            .peer_joined(PeerId(10 + peer), Supply { price: Some(Price::FREE), queue_max: 1 });
    }
    let last = PeerId(10 + PEERS_MAX as u32);
    assert_eq!(case.orders(), [Order::Drop(last, DropReason::Full)]);
}

#[test]
fn what_comes_too_late_or_makes_no_sense_changes_nothing() {
    let mut case = Case::new(2, 2, false);
    let unknown = PeerId(99);
    case.download.unchoked(unknown);
    case.download.choked(unknown);
    case.download.have(unknown, 0);
    case.download.have_all(unknown);
    case.download.bitfield(unknown, &[0xff, 0xff]);
    case.download.allow(unknown, ByteCount::GIB);
    case.download.priced(unknown, Price::FREE);
    case.download.rejected(unknown, block(0, 0));
    case.download.peer_left(unknown);
    case.download.passed(block(0, 0));
    case.download.passed(block(u32::MAX, 7));
    case.download.keep(block(9, 9));
    case.download.leaves_known(7);
    case.download.leaves_refused(unknown, 0);
    case.download.piece_failed(0, &[]);
    case.download.piece_failed(9, &[]);
    case.download.piece_passed(u32::MAX, &[]);
    assert_eq!(case.arrived(unknown, block(0, 0)), Verdict::Unasked);
    assert_eq!(case.orders(), []);
    // A piece that is found to be here was not fetched for nothing.
    let owed = asked(&case.seed(A, FREE, ALL), A);
    case.download.piece_passed(owed[0].piece, &[]);
    let orders = case.orders();
    assert!(orders.contains(&Order::Have(owed[0].piece)));
    assert_eq!(orders.iter().filter(|order| matches!(order, Order::Cancel(A, _))).count(), 2);
}

#[test]
fn a_peer_that_is_unpriced_holds_up_nobody_and_is_asked_once_it_is_priced_again() {
    let mut case = Case::new(16, 4, true);
    let first = case.seed(A, 5, 0);
    let tried = [first, case.wait(PATIENCE_MS)].concat();
    assert!(tried.contains(&Order::Interested(A)), "{tried:?}");
    // It never gets ready.
    case.download.unpriced(A);
    let second = case.seed(B, 9, ALL);
    let blocks = asked(&[second, case.wait(2 * TICK_MS)].concat(), B);
    assert!(!blocks.is_empty(), "the dearer one is asked at once");
    case.download.priced(A, price(5));
    case.download.allow(A, ByteCount::new(ALL));
    assert!(!asked(&case.wait(TICK_MS), A).is_empty());
}

#[test]
fn peers_that_never_get_ready_hold_up_dearer_ones_for_20_s_each_at_most() {
    let mut case = Case::new(16, 4, true);
    case.seed(A, 5, 0);
    case.seed(C, 7, 0);
    case.seed(B, 9, ALL);
    assert!(!asked(&case.wait(45_000), B).is_empty());
}

#[test]
fn whoever_sends_another_copy_than_what_passed_is_left() {
    let mut case = Case::new(16, 4, true);
    case.seed(A, 5, ALL);
    case.download.copy_failed(A);
    assert!(case.orders().contains(&Order::Drop(A, DropReason::BadData)));
}
