//! Bonds, and the evidence that takes them.

use sparewire_core::{B256, ByteCount, SessionId, Signed, Timestamp};
use sparewire_protocol::{Countersigned, Reading, Receipt, stake::Contradiction};

use super::*;
use crate::contracts::Stake;

const PENALTY: u128 = 100;
const MONTH: u64 = 30 * 86_400;

/// A chain with a stake contract; the payee has 1,000 tokens.
struct Scene {
    embedded: EmbeddedChain,
    deployed: Deployment,
    stake: Address,
    payer: EvmChain,
    payee: EvmChain,
}

impl Scene {
    async fn new() -> Self {
        let embedded = embedded();
        let endpoint = Endpoint::Embedded(embedded.clone());
        let deployed = deploy(endpoint.clone(), signer(PAYER), quick()).await.unwrap();
        let (token, channels) = (deployed.token, deployed.domain.contract);
        let from = || (endpoint.clone(), signer(PAYER), quick());
        let (at, by, policy) = from();
        let keys = deploy_keys(at, by, policy, channels).await.unwrap();
        let (at, by, policy) = from();
        let penalty = amount(PENALTY);
        let stake = deploy_stake(at, by, policy, keys, token, penalty).await.unwrap();
        let payer = connect(endpoint.clone(), &deployed, PAYER, quick()).await;
        let payee = connect(endpoint, &deployed, PAYEE, quick()).await;
        payee.mint(token, payee.wallet(), amount(1_000)).await.unwrap();
        Self { embedded, deployed, stake, payer, payee }
    }

    fn bond(&self, units: u128) -> Intent {
        let (stake, token) = (self.stake, self.deployed.token);
        Intent::Bond { stake, holder: self.payee.wallet(), token, amount: amount(units) }
    }

    async fn bonded(&self) -> u128 {
        let facts = self.payer.bond(self.stake, self.payee.wallet()).await.unwrap();
        assert_eq!((facts.token, facts.penalty), (self.deployed.token, amount(PENALTY)));
        facts.bonded.get()
    }

    async fn tokens(&self, of: Address) -> u128 {
        self.payer.funds(of, self.deployed.token).await.unwrap().wallet
    }

    /// Two receipts of that number by the payee's authorizer.
    fn contradiction(&self, sequence: u64) -> Contradiction {
        self.contradiction_until(sequence, 1 << 40)
    }

    /// The same under a delegation that ends then.
    fn contradiction_until(&self, sequence: u64, expiry_secs: u64) -> Contradiction {
        let (domain, config) = (self.deployed.domain, config(self.deployed.token, 1));
        let both = |units: u128| {
            let body = Receipt {
                channel: config.id(&domain),
                session: SessionId(B256::repeat_byte(7)),
                sequence,
                reading: Reading { up: ByteCount::new(3), down: ByteCount::new(4) },
                amount: amount(units),
                previous: B256::repeat_byte(8),
                time: Timestamp::from_ms(9),
            };
            let by = |seed: u8| TestSigner::new(seed).sign_digest(body.digest(&domain)).unwrap();
            // No one of them is the payer's: the contract does not ask.
            Countersigned { receipt: Signed { body, signature: by(99) }, payee_signature: by(12) }
        };
        let delegation = Delegation {
            wallet: self.payee.wallet(),
            device: NodeId(B256::repeat_byte(6)),
            authorizer: config.payee_authorizer,
            expiry_secs,
        };
        let delegation = Verified::sign(delegation, &domain, &TestSigner::new(PAYEE)).unwrap();
        Contradiction::new(&domain, *delegation.signed(), config, [both(5), both(6)]).unwrap()
    }

    fn commit(&self, contradiction: &Contradiction, salt: u8) -> Intent {
        let salt = B256::repeat_byte(salt);
        let commitment = contradiction.commitment(self.payer.wallet(), salt);
        Intent::CommitReport { stake: self.stake, commitment }
    }

    fn report(&self, contradiction: &Contradiction, salt: u8) -> Intent {
        let contradiction = Box::new(contradiction.clone());
        let salt = B256::repeat_byte(salt);
        Intent::ReportReceipts { stake: self.stake, contradiction, salt }
    }

    /// The payer commits, waits and reports.
    async fn reported(&self, contradiction: &Contradiction) -> Result<Outcome, ChainError> {
        self.payer.perform(&self.commit(contradiction, 1)).await.unwrap();
        self.embedded.increase_time(300).unwrap();
        self.payer.perform(&self.report(contradiction, 1)).await
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, ChainError>, words: &str) {
    let error = answer.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[tokio::test]
async fn a_bond_is_put_up_and_leaves_thirty_days_after_it_was_announced() {
    let scene = Scene::new().await;
    let (payee, stake) = (&scene.payee, scene.stake);
    assert_eq!(scene.bonded().await, 0);
    let quote = payee.quote(&scene.bond(150)).await.unwrap();
    let outcome = payee.perform(&scene.bond(150)).await.unwrap();
    assert_eq!((quote.transactions, outcome.transactions.len()), (2, 2), "approve, bond");
    assert!(outcome.gas_used() <= quote.gas, "{quote:?}");
    // Somebody else may bond for it; and two at once do not share an allowance.
    scene.payer.mint(scene.deployed.token, scene.payer.wallet(), amount(10)).await.unwrap();
    scene.payer.perform(&scene.bond(10)).await.unwrap();
    let (first, second) = (scene.bond(20), scene.bond(30));
    let (one, other) = tokio::join!(payee.perform(&first), payee.perform(&second));
    one.and(other).unwrap();
    assert_eq!(scene.bonded().await, 210);
    assert_eq!(scene.tokens(payee.wallet()).await, 800);

    let leave = |units: u128| Intent::AnnounceLeaving { stake, amount: amount(units) };
    let unbond = Intent::Unbond { stake };
    refused(payee.perform(&unbond).await, "nothing of the bond is announced to leave");
    assert_eq!(payee.perform(&leave(0)).await.unwrap(), Outcome::default());
    payee.perform(&leave(50)).await.unwrap();
    let facts = payee.bond(stake, payee.wallet()).await.unwrap();
    assert_eq!(
        (facts.bonded, facts.leaving, facts.covered),
        (amount(210), amount(50), amount(160))
    );
    assert!(facts.due_secs >= payee.head().await.unwrap().time_secs + MONTH - 60, "{facts:?}");
    // Announced once more, the notice does not begin anew.
    scene.embedded.increase_time(MONTH - 3_600).unwrap();
    assert_eq!(payee.perform(&leave(50)).await.unwrap(), Outcome::default());
    refused(payee.perform(&unbond).await, "cannot be taken back before");
    assert_eq!(scene.bonded().await, 210);
    scene.embedded.increase_time(3_600).unwrap();
    payee.perform(&unbond).await.unwrap();
    assert_eq!((scene.bonded().await, scene.tokens(payee.wallet()).await), (160, 850));
    assert_eq!(scene.tokens(stake).await, 160, "the contract holds what it owes");
    refused(payee.perform(&unbond).await, "nothing of the bond is announced to leave");
}

#[tokio::test]
async fn two_receipts_with_one_number_cost_the_penalty_half_of_it_burned() {
    let scene = Scene::new().await;
    let (payer, stake) = (&scene.payer, scene.stake);
    scene.payee.perform(&scene.bond(150)).await.unwrap();
    let contradiction = scene.contradiction(1);
    let evidence = contradiction.evidence();
    let receipt = &contradiction.receipts()[0].body;
    let named = Stake::receiptsEvidenceCall::new((
        scene.payee.wallet(),
        receipt.channel.0,
        receipt.session.0,
        receipt.sequence,
    ));
    assert_eq!(payer.read_newest(stake, named).await.unwrap(), evidence);

    let (commit, report) = (scene.commit(&contradiction, 1), scene.report(&contradiction, 1));
    refused(payer.perform(&report).await, "nobody committed to this report");
    let committed = payer.perform(&commit).await.unwrap();
    assert_eq!(payer.perform(&commit).await.unwrap(), Outcome::default(), "asked for again");
    refused(payer.perform(&report).await, "cannot be shown before");
    let commitment = contradiction.commitment(payer.wallet(), B256::repeat_byte(1));
    let facts = payer.report_facts(stake, evidence, commitment).await.unwrap();
    assert!(!facts.used && facts.ready_secs.is_some(), "{facts:?}");
    let block = committed.transactions[0].block;
    assert!(payer.committed_in(stake, commitment, block).await.unwrap());
    assert!(!payer.committed_in(stake, evidence, block).await.unwrap());

    scene.embedded.increase_time(300).unwrap();
    let done = payer.perform(&report).await.unwrap();
    let slashing = payer.slashing(stake, evidence, done.transactions[0].block).await.unwrap();
    let slashing = slashing.unwrap();
    assert_eq!((slashing.provider, slashing.reporter), (scene.payee.wallet(), payer.wallet()));
    assert_eq!((slashing.reward, slashing.burned), (amount(50), amount(50)));
    let burned = payer.read_newest(stake, Stake::BURNEDCall {}).await.unwrap();
    let held = [payer.wallet(), burned, stake];
    let [reporter, burned, left] = held.map(|of| scene.tokens(of));
    assert_eq!((reporter.await, burned.await, left.await), (50, 50, 50));
    // Once, by whomever and however often it is asked for.
    assert!(payer.report_facts(stake, evidence, commitment).await.unwrap().used);
    assert_eq!(payer.perform(&report).await.unwrap(), Outcome::default());
    assert_eq!(scene.bonded().await, 50);
}

#[tokio::test]
async fn what_is_left_of_a_bond_is_taken_even_while_it_leaves_and_then_there_is_nothing() {
    let scene = Scene::new().await;
    let (payee, stake) = (&scene.payee, scene.stake);
    payee.perform(&scene.bond(131)).await.unwrap();
    payee.perform(&Intent::AnnounceLeaving { stake, amount: amount(131) }).await.unwrap();
    scene.reported(&scene.contradiction(1)).await.unwrap();
    scene.reported(&scene.contradiction(2)).await.unwrap();
    assert_eq!(scene.bonded().await, 0);
    assert_eq!(scene.tokens(scene.payer.wallet()).await, 50 + 15, "half, rounded down");
    refused(scene.reported(&scene.contradiction(3)).await, "has nothing bonded");
}

#[tokio::test]
async fn nothing_is_bonded_announced_or_reported_where_there_is_no_stake_contract() {
    let scene = Scene::new().await;
    let nowhere = Address::repeat_byte(0xdd);
    let contradiction = scene.contradiction(1);
    let none = ChainError::NoStake { stake: nowhere, chain_id: CHAIN_ID };
    let mut intents = [
        scene.bond(1),
        Intent::AnnounceLeaving { stake: nowhere, amount: amount(1) },
        Intent::Unbond { stake: nowhere },
        scene.commit(&contradiction, 1),
        scene.report(&contradiction, 1),
    ];
    for intent in &mut intents {
        match intent {
            Intent::Bond { stake, .. }
            | Intent::CommitReport { stake, .. }
            | Intent::ReportReceipts { stake, .. } => *stake = nowhere,
            _ => {}
        }
        assert_eq!(scene.payee.perform(intent).await.unwrap_err(), none);
    }
    assert_eq!(scene.payee.bond(nowhere, Address::ZERO).await.unwrap_err(), none);
    // Nor with another token than the bonds' own.
    let (stake, holder) = (scene.stake, scene.payee.wallet());
    let other = scene.deployed.domain.contract;
    let bond = Intent::Bond { stake, holder, token: other, amount: amount(1) };
    refused(scene.payee.perform(&bond).await, "holds bonds in token");
    assert_eq!(scene.tokens(holder).await, 1_000);
}

#[tokio::test]
async fn the_same_call_of_two_contracts_is_two_intents() {
    let pass = |_: &str, _: &serde_json::Value| Verdict::Pass;
    let (_, _, chain) = misbehaving(quick(), Journal::in_memory().unwrap(), pass).await;
    let of = |contract: u8| {
        let contract = Address::repeat_byte(contract);
        let (device, authorizer) = (Some(NodeId::default()), None);
        [Intent::Unbond { stake: contract }, Intent::Revoke { keys: contract, device, authorizer }]
            .map(|intent| chain.digest_of(&intent))
    };
    let (one, other) = (of(1), of(2));
    assert_eq!(one, of(1));
    assert!(one.iter().all(|digest| !other.contains(digest)));
}

#[tokio::test]
async fn a_wallet_answers_until_its_delegation_ended_or_was_revoked_and_a_week_more() {
    const WEEK: u64 = 7 * 86_400;
    let scene = Scene::new().await;
    let (payee, stake) = (&scene.payee, scene.stake);
    payee.perform(&scene.bond(300)).await.unwrap();
    let first_end = payee.head().await.unwrap().time_secs + 10 * 86_400;
    let contradiction = scene.contradiction_until(1, first_end);
    let delegation = contradiction.delegation().body;
    let keys = payee.read_newest(stake, Stake::KEYSCall {}).await.unwrap();
    let liability = async || payee.liability(stake, &delegation).await.unwrap();
    let signed = liability().await;
    assert_eq!(signed.expiry_secs, delegation.expiry_secs);
    assert_eq!(signed.until_secs, delegation.expiry_secs + WEEK);

    // Registered for longer, the wallet answers for longer, and the contract wants that expiry.
    let expiry_secs = delegation.expiry_secs + 100 * 86_400;
    let delegation_later = Delegation { expiry_secs, ..delegation };
    payee.perform(&Intent::Register { keys, delegation: delegation_later }).await.unwrap();
    assert_eq!(liability().await.until_secs, expiry_secs + WEEK);
    let now = payee.head().await.unwrap().time_secs;
    scene.embedded.increase_time(delegation.expiry_secs + WEEK + 1 - now).unwrap();
    refused(scene.reported(&contradiction).await, "answered for");
    let later = contradiction.clone().registered_until(expiry_secs);
    assert_eq!(later.evidence(), contradiction.evidence());
    scene.payer.perform(&scene.report(&later, 1)).await.unwrap();
    assert_eq!(scene.bonded().await, 200);

    // Revoked, it answers for a week.
    let authorizer = Some(delegation.authorizer);
    payee.perform(&Intent::Revoke { keys, device: None, authorizer }).await.unwrap();
    let now = payee.head().await.unwrap().time_secs;
    let until = liability().await.until_secs;
    assert!(until > now && until <= now + WEEK, "{until} at {now}");
    scene.embedded.increase_time(WEEK + 1).unwrap();
    let another = scene.contradiction_until(2, first_end).registered_until(expiry_secs);
    refused(scene.reported(&another).await, "answered for");
}
