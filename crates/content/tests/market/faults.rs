//! What fails: connections, processes, disks, at any output of a machine; and what a process begins
//! with.

use sparewire_content::{Download, TICK_MS};
use sparewire_protocol::Role;

use super::{
    blocks::blocks,
    end::{Command, Key, Past},
    world::{Fault, Happening, World},
};

impl World {
    pub(crate) fn fault(&mut self) {
        if self.now >= self.calm_at {
            self.nodes.iter_mut().for_each(|node| {
                (node.fuse, node.disk_fails) = (None, false);
            });
            return;
        }
        let node = self.random.below(self.nodes.len() as u64) as usize;
        match self.random.below(9) {
            what @ (0..=2 | 8) => {
                let links: Vec<u64> = self.links.keys().copied().collect();
                if !links.is_empty() {
                    let link = links[self.random.below(links.len() as u64) as usize];
                    match what {
                        8 => self.stall(link),
                        _ => self.cut(link),
                    }
                }
            }
            3 => self.kill(node),
            4 | 5 => self.nodes[node].fuse = Some((self.random.below(30) as u32, Fault::Cut)),
            6 => self.nodes[node].fuse = Some((self.random.below(30) as u32, Fault::Kill)),
            _ => {
                self.nodes[node].disk_fails = true;
                *self.ledger.crashes.entry(node).or_default() += 1;
                self.ledger.reached.disk += 1;
            }
        }
        let next = self.now + 1 + self.random.below(2 * self.fault_every);
        self.at(next, Happening::Fault);
    }

    /// One of its sessions in which it is paid is to end, for whatever reason.
    pub(crate) fn ask_to_close(&mut self, node: usize) {
        let keys = self.keys_of(node);
        if keys.is_empty() {
            return;
        }
        let key = keys[self.random.below(keys.len() as u64) as usize];
        if let Some(task) = self.ends.get_mut(&key).and_then(|end| end.selling.as_mut()) {
            task.commands.push_back(Command::Close("enough for now"));
            self.wake(key, Role::Payee, self.now);
        }
    }

    /// Counts an output down; `true` where the process is gone before it.
    pub(crate) fn fuse_burns(&mut self, key: Key) -> bool {
        let Some((left, fault)) = self.nodes[key.0].fuse else { return false };
        if left > 0 {
            self.nodes[key.0].fuse = Some((left - 1, fault));
            return false;
        }
        self.nodes[key.0].fuse = None;
        match fault {
            Fault::Kill => {
                self.kill(key.0);
                true
            }
            Fault::Cut => {
                if let Some(end) = self.ends.get(&key) {
                    let link = end.link;
                    self.cut(link);
                }
                false
            }
        }
    }

    /// The process dies: what is on disk stays, and some of what was on its way there.
    pub(crate) fn kill(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.ledger.reached.killed += 1;
        self.tell(|| format!("{node} dies"));
        *self.ledger.crashes.entry(node).or_default() += 1;
        let under_way: Vec<(u64, u64)> = self
            .happenings
            .iter()
            .filter(|(_, what)| matches!(what, Happening::Durable { key, .. } if key.0 == node))
            .map(|(at, _)| *at)
            .collect();
        for at in under_way {
            if let Some(Happening::Durable { channel, records, .. }) = self.happenings.remove(&at)
                && self.random.one_in(2)
            {
                self.record(node, channel, records);
            }
        }
        for key in self.keys_of(node) {
            let link = self.ends[&key].link;
            let tasks = self.ends.remove(&key).map(|end| [end.buying, end.selling]);
            for (task, role) in tasks.into_iter().flatten().zip([Role::Payer, Role::Payee]) {
                if let Some(task) = task {
                    self.leg_over(link, key, role, task.session, false);
                }
            }
            self.cut(link);
        }
        let saved = self.random.one_in(2);
        let by_block = self.by_block;
        let state = &mut self.nodes[node];
        state.up = false;
        state.twice += u64::from(state.download.paid_twice());
        // Without hash trees what is there is kept, and judged with its piece.
        for (block, landed) in std::mem::take(&mut state.pending) {
            if landed.written && !by_block && saved {
                state.kept.insert(block, landed.good);
            }
        }
        state.checks.clear();
        state.copies.clear();
        state.past = Past::default();
        (state.fuse, state.disk_fails) = (None, false);
        let at = self.now + self.random.of(&[10, 1_000, 10_000, 25_000]);
        self.at(at, Happening::Boot { node });
    }

    pub(crate) fn boot(&mut self, node: usize) {
        let geometry = self.geometry.clone();
        for piece in 0..geometry.pieces() {
            let all = blocks(&geometry, piece);
            let state = &mut self.nodes[node];
            if !all.iter().all(|block| state.kept.contains_key(block)) {
                continue;
            }
            // All of it is there: it was judged, or is now.
            if all.iter().all(|block| state.kept[block]) {
                state.had.insert(piece);
                state.passed.extend(all.iter().copied());
            }
            state.kept.retain(|block, _| block.piece != piece);
            state.leaves.remove(&piece);
        }
        let setup = self.download_setup(self.nodes[node].had.clone());
        let state = &mut self.nodes[node];
        let mut download = Download::new(setup);
        for piece in &state.leaves {
            download.leaves_known(*piece);
        }
        for block in state.kept.keys() {
            download.keep(*block);
        }
        state.download = download;
        (state.up, state.life) = (true, state.life + 1);
        state.ids.clear();
        let life = state.life;
        let at = self.now + 1 + self.random.below(TICK_MS);
        self.at(at, Happening::Tick { node, life });
        self.carry_out(node);
    }
}
