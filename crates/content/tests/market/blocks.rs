//! Blocks: whom to ask for which, what becomes of those that come, and what is sent to whom.

use sparewire_content::{Bitfield, Block, DropReason, Geometry, Order, PeerId, Verdict};
use sparewire_protocol::{Direction, Role};

use super::{
    end::{Buy, Key},
    vice::Vice,
    world::{Copy, Happening, Landed, Wire, World},
};

pub(crate) fn blocks(geometry: &Geometry, piece: u32) -> Vec<Block> {
    (0..geometry.blocks_of(piece)).filter_map(|number| geometry.block(piece, number)).collect()
}

impl World {
    fn key_of(&self, node: usize, id: PeerId) -> Option<Key> {
        let peer = *self.nodes[node].ids.get(&id)?;
        let end = self.ends.get(&(node, peer))?;
        (end.id == id && !end.lost).then_some((node, peer))
    }

    /// Does what the download machine says.
    pub(crate) fn carry_out(&mut self, node: usize) {
        while let Some(order) = self.nodes[node].download.poll_order() {
            match order {
                Order::Request(id, block) => {
                    let Some(key) = self.key_of(node, id) else { continue };
                    if let Some(end) = self.ends.get_mut(&key) {
                        end.asked += u64::from(block.len);
                    }
                    self.send(key, Wire::Request(block));
                }
                Order::Cancel(id, block) => {
                    let Some(key) = self.key_of(node, id) else { continue };
                    if let Some(end) = self.ends.get_mut(&key) {
                        end.asked = end.asked.saturating_sub(u64::from(block.len));
                    }
                    self.send(key, Wire::Cancel(block));
                }
                Order::Interested(id) => {
                    let Some(key) = self.key_of(node, id) else { continue };
                    if let Some(end) = self.ends.get_mut(&key) {
                        end.wanted = true;
                    }
                    self.send(key, Wire::Interested(true));
                }
                Order::NotInterested(id) => {
                    if let Some(key) = self.key_of(node, id) {
                        self.send(key, Wire::Interested(false));
                    }
                }
                Order::AskLeaves(id, piece) => match self.key_of(node, id) {
                    Some(key) => self.send(key, Wire::AskLeaves(piece)),
                    None => self.nodes[node].download.leaves_refused(id, piece),
                },
                Order::Check(piece) => {
                    self.nodes[node].checks.insert(piece);
                    self.judge_soon(node, piece);
                }
                Order::Forget(piece) => {
                    self.nodes[node].pending.retain(|block, _| block.piece != piece);
                    self.nodes[node].checks.remove(&piece);
                }
                Order::Have(piece) => {
                    let state = &mut self.nodes[node];
                    assert!(state.had.insert(piece), "a piece is had twice");
                    state.kept.retain(|block, _| block.piece != piece);
                    state.leaves.remove(&piece);
                    for peer in 0..self.nodes.len() {
                        self.send((node, peer), Wire::Have(piece));
                    }
                    self.copies_soon(node, piece);
                }
                Order::Drop(id, reason) => {
                    let peer = self.nodes[node].ids.get(&id).copied();
                    if let (Some(peer), DropReason::BadData) = (peer, reason) {
                        // By its address.
                        let spoils = matches!(self.nodes[peer].vice, Some(Vice::Spoils));
                        assert!(spoils, "a good peer is taken for a bad one");
                        self.nodes[node].banned.insert(peer);
                        self.ledger.reached.banned += 1;
                    }
                    if let Some(key) = self.key_of(node, id) {
                        let link = self.ends[&key].link;
                        self.end_link(key, link);
                    }
                }
                Order::Complete => {
                    if self.nodes[node].completed_at.is_none() {
                        self.nodes[node].completed_at = Some(self.now);
                    }
                }
            }
        }
    }

    /// Something of the peer wire has come.
    pub(crate) fn hear(&mut self, key: Key, wire: Wire) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        let (node, id) = (key.0, end.id);
        match wire {
            Wire::Frame { from_payer: true, message } => {
                return self.hear_as_payee(key, message.map(|m| *m));
            }
            Wire::Frame { from_payer: false, message: Some(message) } => {
                return self.hear_as_payer(key, *message);
            }
            Wire::Frame { from_payer: false, message: None } => {
                return self.half_over_as_payer(key);
            }
            Wire::Bitfield(bits) => self.nodes[node].download.bitfield(id, &bits),
            Wire::Have(piece) => self.nodes[node].download.have(id, piece),
            Wire::Choke => {
                end.asked = 0;
                self.nodes[node].download.choked(id);
            }
            Wire::Unchoke => self.nodes[node].download.unchoked(id),
            Wire::Interested(want) => {
                end.they_want = want;
                return self.serve(key);
            }
            Wire::Request(block) => {
                if end.unchoked {
                    end.requests.push_back(block);
                    self.pump(key);
                }
                return;
            }
            Wire::Cancel(block) => return end.requests.retain(|asked| *asked != block),
            Wire::AskLeaves(piece) => {
                let gives = self.nodes[node].had.has(piece);
                return self.send(key, Wire::Leaves { piece, gives });
            }
            Wire::Leaves { piece, gives: true } => {
                let state = &mut self.nodes[node];
                if !state.had.has(piece) && state.leaves.insert(piece) {
                    state.download.leaves_known(piece);
                    self.judge_all_written(node, piece);
                }
            }
            Wire::Leaves { piece, gives: false } => {
                self.nodes[node].download.leaves_refused(id, piece);
            }
            Wire::Piece { block, good } => return self.block_came(key, block, good),
        }
        self.carry_out(node);
        self.drive(key);
    }

    fn block_came(&mut self, key: Key, block: Block, good: bool) {
        let (now, clock, len) = (self.now, self.clock(), u64::from(block.len));
        let Some(end) = self.ends.get_mut(&key) else { return };
        end.came += len;
        end.unjudged += len;
        end.asked = end.asked.saturating_sub(len);
        let id = end.id;
        let (unjudged, on) = (end.unjudged, end.buying.is_some());
        self.tell(|| format!("{key:?} gets {block:?} {good}, {unjudged} unjudged, {on}"));
        let Some(end) = self.ends.get_mut(&key) else { return };
        if let Some(task) = end.buying.as_ref().filter(|task| good && task.started) {
            self.ledger.delivered(end.link, key, task.session, len);
        }
        let node = &mut self.nodes[key.0];
        let verdict = node.download.arrived(id, block, clock);
        match verdict {
            Verdict::Wanted => {
                let stamp = self.number();
                let landed = Landed { from: id, good, stamp, written: false };
                let before = self.nodes[key.0].pending.insert(block, landed);
                assert!(before.is_none(), "a block that waits to be judged is wanted");
                let delay = self.random.of(&[0, 0, 1, 10, 100]);
                let life = self.nodes[key.0].life;
                self.at(now + delay, Happening::Written { node: key.0, life, block, stamp });
            }
            Verdict::Duplicate => {
                node.copies.push(Copy { from: id, block, good });
                self.ledger.reached.copies += 1;
                if self.nodes[key.0].had.has(block.piece) {
                    self.copies_soon(key.0, block.piece);
                }
            }
            Verdict::Unasked => end_unjudged(self, key, len),
        }
        self.carry_out(key.0);
        self.drive(key);
    }

    /// A block is on disk.
    pub(crate) fn written(&mut self, node: usize, block: Block, stamp: u64) {
        let alone = self.judges_alone(node, block.piece);
        let Some(landed) = self.nodes[node].pending.get_mut(&block) else { return };
        if landed.stamp != stamp {
            return; // forgotten meanwhile, and asked for anew
        }
        landed.written = true;
        if alone {
            self.judge_block(node, block);
        }
        self.judge_soon(node, block.piece);
        self.carry_out(node);
    }

    fn judges_alone(&self, node: usize, piece: u32) -> bool {
        let known = self.nodes[node].leaves.contains(&piece);
        self.by_block && (known || self.geometry.blocks_of(piece) == 1)
    }

    fn judge_all_written(&mut self, node: usize, piece: u32) {
        for block in blocks(&self.geometry.clone(), piece) {
            if self.nodes[node].pending.get(&block).is_some_and(|landed| landed.written) {
                self.judge_block(node, block);
            }
        }
    }

    fn judge_block(&mut self, node: usize, block: Block) {
        let Some(landed) = self.nodes[node].pending.remove(&block) else { return };
        let key = self.key_of(node, landed.from);
        if landed.good {
            self.passed(node, block);
            if let Some(key) = key {
                self.count(key, u64::from(block.len));
            }
            self.nodes[node].kept.insert(block, true);
            self.nodes[node].download.passed(block);
        } else {
            if let Some(key) = key {
                end_unjudged(self, key, u64::from(block.len));
            }
            self.nodes[node].download.block_failed(landed.from, block);
        }
    }

    fn passed(&mut self, node: usize, block: Block) {
        assert!(self.nodes[node].passed.insert(block), "a block passes twice");
    }

    fn judge_soon(&mut self, node: usize, piece: u32) {
        let state = &self.nodes[node];
        if !state.checks.contains(&piece) {
            return;
        }
        let here = |block: &Block| {
            state.kept.contains_key(block)
                || state.pending.get(block).is_some_and(|landed| landed.written)
        };
        if blocks(&self.geometry, piece).iter().all(here) {
            let life = state.life;
            let delay = self.random.of(&[0, 1, 30]);
            self.at(self.now + delay, Happening::Judge { node, life, piece });
        }
    }

    /// All of a piece is on disk: is it good?
    pub(crate) fn judge(&mut self, node: usize, piece: u32) {
        let all = blocks(&self.geometry, piece);
        let state = &mut self.nodes[node];
        let here = |block: &Block| {
            state.kept.contains_key(block)
                || state.pending.get(block).is_some_and(|landed| landed.written)
        };
        if !state.checks.contains(&piece) || !all.iter().all(here) {
            return;
        }
        state.checks.remove(&piece);
        let good = |block: &Block| match state.pending.get(block) {
            Some(landed) => landed.good,
            None => state.kept[block],
        };
        let digests: Vec<u64> = all
            .iter()
            .map(|block| match (good(block), state.pending.get(block)) {
                (true, _) => u64::from(block.begin),
                (false, landed) => {
                    landed.map_or(1 << 40, |landed| 1_000 + u64::from(landed.from.0))
                }
            })
            .collect();
        let passes = all.iter().all(good);
        let pending: Vec<(Block, Landed)> =
            all.iter().filter_map(|block| Some((*block, state.pending.remove(block)?))).collect();
        if passes {
            for (block, landed) in pending {
                if let Some(key) = self.key_of(node, landed.from) {
                    self.count(key, u64::from(block.len));
                }
            }
            for block in all {
                self.nodes[node].passed.insert(block);
            }
            self.nodes[node].download.piece_passed(piece, &digests);
        } else {
            self.nodes[node].kept.retain(|block, _| block.piece != piece);
            self.nodes[node].download.piece_failed(piece, &digests);
        }
        self.carry_out(node);
    }

    fn copies_soon(&mut self, node: usize, piece: u32) {
        if self.nodes[node].copies.iter().any(|copy| copy.block.piece == piece) {
            let life = self.nodes[node].life;
            let delay = self.random.of(&[0, 5]);
            self.at(self.now + delay, Happening::Copies { node, life, piece });
        }
    }

    /// Copies of blocks that somebody else sent first are compared with what is there.
    pub(crate) fn judge_copies(&mut self, node: usize, piece: u32) {
        let copies = std::mem::take(&mut self.nodes[node].copies);
        let (now, later) = copies.into_iter().partition(|copy| copy.block.piece == piece);
        self.nodes[node].copies = later;
        let now: Vec<Copy> = now;
        for copy in now {
            let len = u64::from(copy.block.len);
            match (copy.good, self.key_of(node, copy.from)) {
                (true, Some(key)) => {
                    self.ledger.extra(node, len);
                    self.count(key, len);
                }
                (true, None) => {}
                (false, key) => {
                    if let Some(key) = key {
                        end_unjudged(self, key, len);
                    }
                    self.nodes[node].download.copy_failed(copy.from);
                }
            }
        }
        self.carry_out(node);
    }

    // --- Serving ---

    /// Whoever pays is served.
    pub(crate) fn serve(&mut self, key: Key) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        let may = end.selling.is_some();
        if may && end.they_want && !end.unchoked {
            end.unchoked = true;
            self.send(key, Wire::Unchoke);
        } else if end.unchoked && !(may && end.they_want) {
            end.unchoked = false;
            end.requests.clear();
            self.send(key, Wire::Choke);
        }
        self.pump(key);
    }

    /// Sends what may be sent now: one block at a time.
    pub(crate) fn pump(&mut self, key: Key) {
        let pace = self.nodes[key.0].pace;
        let stops = match self.nodes[key.0].vice {
            Some(Vice::SendsNothing) => 0,
            Some(Vice::Stops) => 3,
            _ => u64::MAX,
        };
        let Some(end) = self.ends.get_mut(&key) else { return };
        if end.sending || end.lost || end.sent_blocks >= stops {
            return;
        }
        if end.waiting.is_none() {
            end.waiting = end.requests.pop_front();
        }
        let Some(block) = end.waiting else { return };
        let Some(task) = &mut end.selling else {
            end.waiting = None; // nothing of it will ever be sent
            return;
        };
        if end.epoch != end.sales {
            (end.admitted, end.epoch) = (0, end.sales);
        }
        let len = u64::from(block.len);
        let more = task.meter.admit(Direction::Down, len.saturating_sub(end.admitted) as usize);
        end.admitted += more as u64;
        let (channel, session) = (task.channel, task.session);
        let marked =
            task.meter.is_closed() || task.meter.admitted() >= task.machine.poll_mark().get();
        let whole = end.admitted >= len;
        if whole {
            end.admitted -= len;
            (end.waiting, end.sending) = (None, true);
            end.sent_blocks += 1;
        }
        let link = end.link;
        if more > 0 {
            self.ledger.served(link, key, (channel, session), more as u64);
        }
        if marked && more > 0 {
            self.poke(key, Role::Payee);
        }
        if whole {
            let good = !(self.nodes[key.0].vice == Some(Vice::Spoils) && self.random.one_in(3));
            self.at(self.now + pace, Happening::Sent { key, link, block, good });
        }
    }

    pub(crate) fn sent(&mut self, key: Key, link: u64, block: Block, good: bool) {
        if self.ends.get(&key).is_none_or(|end| end.link != link) {
            return;
        }
        self.send(key, Wire::Piece { block, good });
        if let Some(end) = self.ends.get_mut(&key) {
            end.sending = false;
        }
        self.pump(key);
    }

    pub(crate) fn tell_all(&mut self, key: Key) {
        let pieces = self.geometry.pieces();
        let bits = match self.nodes[key.0].vice {
            Some(Vice::SendsNothing) => Bitfield::all(pieces),
            _ => self.nodes[key.0].had.clone(),
        };
        self.send(key, Wire::Bitfield(bits.to_bytes()));
    }

    /// Whether nothing more will come of the sessions of an end.
    pub(crate) fn is_quiet(&self, key: Key) -> bool {
        self.ends.get(&key).is_none_or(|end| {
            end.buying.is_none() && end.selling.is_none() && !matches!(end.buy, Buy::Live)
        })
    }
}

/// Bytes that came, and will not be counted.
fn end_unjudged(world: &mut World, key: Key, len: u64) {
    if let Some(end) = world.ends.get_mut(&key) {
        end.unjudged = end.unjudged.saturating_sub(len);
    }
}
