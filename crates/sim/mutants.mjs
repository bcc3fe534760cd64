// Bugs for `scripts/mutants` to plant: [name, what it does, [file, as it is, as the bug has it]…].
// The simulator is to find them; what it does not live through (the carrier's transactions) and what
// takes an exact order of events, the tests of the file's crate.
// "As it is" must occur exactly once in its file; it is an expression, or whole statements (then it
// ends with `;` or `}`).
const credit = 'crates/protocol/src/credit.rs';
const meter = 'crates/protocol/src/meter.rs';
const session = 'crates/protocol/src/session.rs';
const payee = 'crates/protocol/src/payee.rs';
const payer = 'crates/protocol/src/payer.rs';
const sqlite = 'crates/node/src/store/sqlite.rs';
const admission = 'crates/node/src/provider/admission.rs';
const copy = 'crates/node/src/copy.rs';
const carrier = 'crates/chain/src/carrier';
const quorum = `${carrier}/quorum.rs`;
const audit = 'crates/sim/src/chain/audit.rs';

export default [
  ['credit-doubled', 'the credit is twice what the rule says', [credit,
    'ByteCount::new(earned.clamp(self.initial.get(), self.maximum.get().max(self.initial.get())))',
    'ByteCount::new(2 * earned.clamp(self.initial.get(), self.maximum.get().max(self.initial.get())))']],
  ['credit-off-by-one', 'the credit is one byte more than the rule says', [credit,
    'ByteCount::new(earned.clamp(self.initial.get(), self.maximum.get().max(self.initial.get())))',
    'ByteCount::new(1 + earned.clamp(self.initial.get(), self.maximum.get().max(self.initial.get())))']],
  ['step-doubled', 'the step is the whole credit', [credit, 'self.credit(paid).get() / 2', 'self.credit(paid).get()']],
  ['allowance-tenfold', 'the loss allowance is ten times the rule', [credit,
    'initial.saturating_mul(3)', 'initial.saturating_mul(39)']],
  ['valve-off-by-one', 'the valve lets one byte more pass than its limit', [meter,
    'self.limit.load(Ordering::Acquire).saturating_sub(admitted)',
    'self.limit.load(Ordering::Acquire).saturating_add(1).saturating_sub(admitted)']],

  ['payee-takes-less', 'the payee takes a voucher for less than its reading is worth', [session,
    'voucher.amount != expected', 'voucher.amount > expected']],
  ['payee-takes-lower', 'an older, lower voucher supersedes a newer one', [payee,
    `payment.session == self.agreement.session
            && self.paid.covers(payment.reading)
            && payment.voucher.body.amount <= self.promised`, 'false'],
    [payee, '!payment.reading.covers(self.paid)', 'false'],
    [payee, `assert!(voucher.amount >= self.promised, "a promise never shrinks");`, '']],
  ['payee-takes-above-reserved', 'the payee starts on a voucher for more than the channel holds', [payee,
    'voucher.amount > facts.reserved', 'false']],
  ['payee-answers-first', 'the payee accepts before it has recorded the session', [payee,
    `if !records.is_empty() {
            payee.outputs.push_back(Output::Persist(records));
        }
        payee.outputs.push_back(Output::Event(Event::Started { reading }));
        payee.outputs.push_back(Output::Transmit(Message::Accepted(Box::new(Accepted {
            session: payee.agreement.session,
            reading,
            base: payee.agreement.base,
            history: payee.agreement.history,
            payment: payee.payment,
            receipt: payee.last_countersigned,
        }))));`,
    `payee.outputs.push_back(Output::Event(Event::Started { reading }));
        payee.outputs.push_back(Output::Transmit(Message::Accepted(Box::new(Accepted {
            session: payee.agreement.session,
            reading,
            base: payee.agreement.base,
            history: payee.agreement.history,
            payment: payee.payment,
            receipt: payee.last_countersigned,
        }))));
        if !records.is_empty() {
            payee.outputs.push_back(Output::Persist(records));
        }`]],
  ['payee-grants-first', 'the payee grants all on a voucher that is not durable yet', [payee,
    'self.grant_at_most(ahead);', 'let _ = ahead; self.grant();']],
  ['payee-keeps-no-voucher', 'the payee does not record a payment', [payee,
    `self.outputs.push_back(Output::Persist(vec![Record::Payment {
            channel: self.channel,
            payment: *payment,
        }]));`, '']],
  ['payee-countersigns-first', 'the payee sends its countersignature and never records it', [payee,
    `self.outputs.push_back(Output::Persist(vec![Record::Receipt {
            receipt: signed,
            payee_signature: Some(payee_signature),
        }]));`, '']],
  ['payee-countersigns-anything', 'the payee countersigns without looking at reading, amount and chain', [payee,
    `receipt.session == self.agreement.session
            && receipt.sequence == self.receipts.sequence + 1
            && receipt.previous == self.receipts.hash
            && receipt.reading.covers(self.receipted)
            && self.paid.covers(receipt.reading)
            && self.agreement.owed(receipt.reading) == Some(receipt.amount)`, 'true']],
  ['payee-forgets-counted', 'what was carried is forgotten as the connection breaks', [payee,
    'self.outputs.push_back(Output::Persist(vec![Record::Counted { session, reading }]));', 'let _ = session;']],
  ['payee-books-no-loss', 'no loss is booked as a session is resumed', [payee,
    'records.push(Record::Loss { session: agreement.session, bytes: lost });', '']],
  ['payee-books-no-loss-at-end', 'no loss is booked as a session ends', [payee,
    'records.push(Record::Loss { session, bytes });', 'let _ = (session, bytes);']],
  ['payee-forgives', 'the loss allowance is not enforced', [payee, 'lost_all > allowed', 'false']],
  ['payee-serves-closing', 'a channel that its payer leaves is served on', [payee,
    'self.status == ChannelStatus::Open', 'true']],
  ['payee-serves-unfunded', 'more is granted than the channel can pay for', [payee,
    'limit.min(affordable).min(most.max(self.granted))', 'limit.min(most.max(self.granted))']],
  ['payee-history-twice', 'bytes that earlier sessions paid for earn credit twice', [payee,
    'memory.history', 'ByteCount::new(2 * memory.history.get())']],
  ['payee-ends-early', 'the payee ends the session at the first word of it', [payee,
    'self.report(true, now);', 'self.report(true, now); self.end(now);']],
  ['payee-waits', 'the payee waits for ever for the end', [payee,
    'now.ms_since(since) >= ANSWER_MS_MAX', 'false'],
    [payee, 'Some(since.plus_ms(ANSWER_MS_MAX))', 'None']],

  ['payer-pays-unsent', 'the payer pays for what is reported up, sent or not', [payer,
    'self.counted.up.min(self.reported_up), down', 'self.reported_up, down']],
  ['payer-pays-ahead', 'the payer pays for what it sent up, carried or not', [payer,
    'self.counted.up.min(self.reported_up), down', 'self.counted.up, down']],
  ['payer-overdraws', 'the payer promises more than the channel holds', [payer,
    'total(payable).saturating_sub(affordable)', 'ByteCount::ZERO'],
    [payer, `assert!(
            amount <= self.reserved.max(self.promised),
            "a new promise never exceeds the channel"
        );`, '']],
  ['payer-sends-first', 'a payment leaves before it is durable', [payer,
    `self.outputs.push_back(Output::Persist(records));
        self.outputs.push_back(Output::Transmit(Message::Payment { payment, receipt }));`,
    `self.outputs.push_back(Output::Transmit(Message::Payment { payment, receipt }));
        self.outputs.push_back(Output::Persist(records));`]],
  ['payer-adopts-nothing', 'the payer ignores its own higher voucher', [payer,
    'voucher.amount > self.promised', 'false']],
  ['payer-resumes-below', 'the payer resumes below what another session promised', [payer,
    'memory.payment.is_some_and(|newest| newest.session != session)', 'false']],
  ['payer-believes-reading', 'the payer goes on from any reading', [payer,
    'reading.down > down_max', 'false'],
    [payer, 'reading.checked_total().is_none_or(|total| total > total_max)', 'false']],
  ['payer-believes-base', 'the payer goes on from whatever was promised, as its provider says', [payer,
    'accepted.base != self.agreement.base',
    '{ self.agreement.base = accepted.base.max(self.agreement.base); false }']],
  ['payer-believes-countersignature', 'the payer keeps countersignatures unseen', [payer,
    'theirs.verify(domain, payee)?;', 'let _ = (&theirs, domain, payee);']],
  ['payer-ends-unpaid', 'the payer ends without its last payment', [payer,
    'unpaid >= self.step() || overdue || settling', 'unpaid >= self.step() || overdue']],
  ['payer-waits', 'the payer waits for ever for an answer', [payer,
    'since.is_some_and(|since| now.ms_since(since) >= ANSWER_MS_MAX)', '{ let _ = (since, what); false }'],
    [payer, '[answer, payment, receipt].into_iter()', '[answer.filter(|_| false), payment, receipt].into_iter()']],

  ['store-does-not-sync', 'SQLite does not wait for the disk', [sqlite,
    '"pragma journal_mode = wal; pragma synchronous = full;"',
    '"pragma journal_mode = wal; pragma synchronous = off;"']],
  ['store-syncs-late', 'what a killed process left is not synced at opening', [sqlite,
    '"pragma wal_checkpoint(full)"', '""']],
  ['store-no-transaction', 'records of a batch are written one by one', [sqlite,
    `let transaction = connection.transaction()?;
            for record in records {
                write_record(&transaction, record)?;
            }
            Ok(transaction.commit()?)`,
    `for record in records {
                write_record(&connection, record)?;
            }
            Ok(())`]],
  ['store-oldest-payment', 'the payment of the first session counts as the newest', [sqlite,
    `"select p.payment from payments p
             left join sessions s on s.id = p.session and s.channel = p.channel
             where p.channel = ? order by p.amount desc, s.number desc nulls last limit 1"`,
    `"select p.payment from payments p
             left join sessions s on s.id = p.session and s.channel = p.channel
             where p.channel = ? order by p.amount limit 1"`]],
  ['store-forgets-pending', 'a receipt without countersignature is forgotten', [sqlite,
    `"select receipt from receipts
                     where channel = ? and payee_signature is null order by sequence desc limit 1"`,
    '"select receipt from receipts where channel = ? and 0"']],
  ['store-forgets-losses', 'losses of other sessions are not counted', [sqlite,
    `"select coalesce((select lost from channels where id = ?1), 0)
                     + coalesce(sum(s.lost + case
                           when s.statement is null and s.id <> ?2
                           then max(0, s.up + s.down - coalesce(p.bytes, 0)) else 0 end), 0)
                     from sessions s
                     left join payments p on p.session = s.id and p.channel = s.channel
                     where s.channel = ?1"`,
    '"select coalesce(sum(lost), 0) from sessions where channel = ?1 and id = ?2"']],
  ['admission-reopens', 'a session that has ended is taken up again', [admission,
    'known.statement.is_some() || is_anothers(&known)', 'is_anothers(&known)'],
    [admission, 'known.statement.is_none()', '{ let _ = &known; true }']],

  ['consumer-counts-twice', 'the consumer counts what it received twice', [copy,
    'self.tally.count(Direction::Down, want)', 'self.tally.count(Direction::Down, 2 * want)']],

  // What was once found, planted back.
  ['owed-rounded-down', 'what is owed is rounded down (ADR 0011)', [session,
    'self.terms.price.owed(reading.checked_total()?)?',
    'Amount::new(u128::from(reading.checked_total()?.get()) * self.terms.price.get() / (1 << 30))?']],
  ['refused-for-silence', 'who was cut off while a session ended is told that it broke the protocol', ['crates/protocol/src/error.rs',
    'RefusalCode::GoingAway', 'RefusalCode::Invalid']],
  ['store-failed-is-damaged', 'a disk that fails once is told as a damaged store', [sqlite,
    'StoreError::Io { path, reason: error.to_string() }', 'StoreError::Damaged { path, reason: error.to_string() }']],
  ['payer-gives-up', 'a session that cannot be resumed gives its provider up', [payer,
    'ProtocolError::CannotResume(what)', 'ProtocolError::Inconsistent(what)']],
  ['payee-weighs-at-todays-price', 'a pending receipt is weighed by the price of today', [payee,
    'pending_of.filter(|of| of.session == receipt.session && of.config == config)',
    'pending_of.filter(|_| false)']],

  ['quorum-ignored', 'one of several chain nodes is believed', [quorum,
    'it.len() >= self.0', '!it.is_empty()']],
  ['quorum-counts-one-twice', 'the newest answer counts twice in a vote', [quorum,
    '(0..answers).filter(|other| alike(at, *other)).collect()',
    '(0..answers).chain([answers - 1]).filter(|other| alike(at, *other)).collect()']],
  ['quorum-believes-the-furthest', 'the node that says it is furthest is believed', [quorum,
    'said.get(self.0 - 1).copied()', 'said.first().copied()']],
  ['undo-forgets', 'a block that is taken back leaves what was not there before it', ['crates/chain/src/evm/world.rs',
    'slots.collect()', 'slots.filter(|(_, was)| !was.is_zero()).collect()']],
  ['books-forget-claims', 'the ledger adds channels up as if nothing had been claimed', [audit,
    'reserved.checked_sub(claimed)', 'Some(reserved)']],

  ['chain-forgets-reorgs', 'a transaction that is mined counts as final', [`${carrier}/follow.rs`,
    'block > head.final_number', '{ let _ = block; false }']],
  ['chain-reuses-nonce', 'a nonce that an unfinished transaction has is used again', [`${carrier}/send.rs`,
    'in_flight.contains(&nonce)', '{ let _ = &in_flight; false }']],
  ['chain-never-bumps', 'a transaction that nobody mines is replaced at the same fee', [`${carrier}/send.rs`,
    'old.saturating_add(old.div_ceil(8)).saturating_add(1)', 'old']],
  ['chain-plans-on-head', 'what is final is read at the newest block', [`${carrier}/node.rs`,
    'number.saturating_sub(depth)', '{ let _ = depth; number }']],
];
