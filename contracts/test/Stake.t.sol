// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Keys} from "../src/Keys.sol";
import {Stake} from "../src/Stake.sol";
import {IBonds} from "../src/interfaces/IBonds.sol";
import {IStake} from "../src/interfaces/IStake.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {ChannelConfig} from "../src/types/Channel.sol";
import {Block, Bond, SignedBlock, SignedDelegation, SignedReceipt} from "../src/types/Evidence.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {ReentrantToken} from "./support/Tokens.sol";
import {Wallet} from "./support/Wallet.sol";
import {vm} from "./support/Vm.sol";

contract StakeTest is ChannelsTest {
    Keys private keys;
    Stake private stake;
    ChannelConfig private config;
    bytes32 private id;
    SignedDelegation private signed;
    /// Whoever reports: any address.
    address private reporter = person("reporter").account;

    uint128 private constant PENALTY = 10 * UNIT + 1;
    uint64 private constant EXPIRY = 1_800_000_000 + 30 days;
    bytes32 private constant DEVICE = keccak256("device");
    bytes32 private constant SALT = keccak256("salt");

    // A file of 65,636 bytes, that is five blocks, byte i being 7 * i mod 251; made with Python's hashlib by BEP 52.
    uint64 private constant LENGTH = 65_636;
    bytes32 private constant ROOT = 0x248176289f3acedf36b22207ce73896c7757155d08861048917383a982f742dc;
    bytes32 private constant LEAF_0 = 0xde211248dff7bc4def1192a5c96710e55692e2672b7ebb7df864c325bacc7e49;
    bytes32 private constant LEAF_4 = 0xd287d99c77d1a3dbb48c1993ac9f277d409eef7a0cf1ac426e2cb75c6140e31b;

    function setUp() public override {
        super.setUp();
        keys = new Keys(channels);
        stake = new Stake(keys, address(token), PENALTY);
        _bond(payee.account, 100 * UNIT);
        (config, id) = opened(UNIT);
        Digests.Delegation memory delegation =
            Digests.Delegation(payee.account, DEVICE, payeeAuthorizer.account, EXPIRY);
        signed = SignedDelegation(delegation, signature(payee.key, keys.delegationDigest(delegation)));
    }

    // Receipts

    function test_reportReceipts_halvesThePenalty() public {
        bytes32 evidence = _commit(_receiptsEvidence(), reporter);
        vm.expectEmit(address(stake));
        emit IStake.Slashed(payee.account, evidence, reporter, 5 * UNIT, 5 * UNIT + 1);
        _reportReceipts();
        vm.assertEq(token.balanceOf(reporter), 5 * UNIT);
        vm.assertEq(token.balanceOf(stake.BURNED()), 5 * UNIT + 1);
        vm.assertEq(stake.bondOf(payee.account).amount, 100 * UNIT - PENALTY);
        vm.assertTrue(stake.isUsed(evidence));
    }

    function test_reportReceipts_countsOnceForANumber() public {
        bytes32 evidence = _commit(_receiptsEvidence(), reporter);
        _reportReceipts();
        // The same, the other way round, and with a third receipt of that number.
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        vm.expectRevert(abi.encodeWithSelector(IStake.EvidenceUsed.selector, evidence));
        vm.prank(reporter);
        stake.reportReceipts(_delegation(), config, second, first, SALT);
        second.receipt.up = 77;
        second = _sign(second.receipt);
        vm.expectRevert(abi.encodeWithSelector(IStake.EvidenceUsed.selector, evidence));
        vm.prank(reporter);
        stake.reportReceipts(_delegation(), config, first, second, SALT);
    }

    function test_reportReceipts_takesWhatIsLeftAndThenNothing() public {
        _leave(95 * UNIT);
        _commit(_receiptsEvidence(), reporter);
        _reportReceipts();
        vm.assertEq(stake.bondOf(payee.account).amount, 0);
        vm.assertEq(token.balanceOf(reporter), 5 * UNIT / 2);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        first.receipt.sequence = second.receipt.sequence = 8;
        (first, second) = (_sign(first.receipt), _sign(second.receipt));
        bytes32 evidence = stake.receiptsEvidence(payee.account, id, first.receipt.sessionId, 8);
        _commit(evidence, reporter);
        vm.expectRevert(abi.encodeWithSelector(IStake.NothingBonded.selector, payee.account));
        vm.prank(reporter);
        stake.reportReceipts(_delegation(), config, first, second, SALT);
        // It can be brought when there is something again.
        vm.assertFalse(stake.isUsed(evidence));
    }

    function test_reportReceipts_revertsIfTheyAgreeOrAreOfDifferentNumbers() public {
        _commit(_receiptsEvidence(), reporter);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        bytes memory reason = abi.encodeWithSelector(IStake.ReceiptsDoNotContradict.selector);
        _refused(reason, _delegation(), config, first, first);
        Digests.Receipt memory changed = second.receipt;
        changed.sequence = 8;
        _refused(reason, _delegation(), config, first, _sign(changed));
        changed.sequence = 7;
        changed.sessionId = keccak256("another session");
        _refused(reason, _delegation(), config, first, _sign(changed));
        changed.sessionId = first.receipt.sessionId;
        changed.channelId = keccak256("another channel");
        _refused(reason, _delegation(), config, first, _sign(changed));
        // Two signatures of one receipt are not two receipts.
        second.receipt = first.receipt;
        second.signature = compactSignature(payeeAuthorizer.key, _digest(first.receipt));
        _refused(reason, _delegation(), config, first, second);
    }

    function test_reportReceipts_revertsIfAnybodyElseSigned() public {
        _commit(_receiptsEvidence(), reporter);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        second.signature = signature(payerAuthorizer.key, _digest(second.receipt));
        _refused(
            abi.encodeWithSelector(IStake.EvidenceSignatureInvalid.selector, _digest(second.receipt)),
            _delegation(),
            config,
            first,
            second
        );
        second.signature = "";
        _refused(
            abi.encodeWithSelector(IStake.EvidenceSignatureInvalid.selector, _digest(second.receipt)),
            _delegation(),
            config,
            first,
            second
        );
    }

    /// The payer writes any payee and authorizer into a channel: that convicts nobody who did not delegate to that key.
    function test_reportReceipts_ofAChannelWithAForgedAuthorizerConvictsNobody() public {
        ChannelConfig memory forged = config;
        (forged.payeeAuthorizer, forged.salt) = (stranger.account, bytes32(uint256(9)));
        bytes32 forgedId = open(forged, 1);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        first.receipt.channelId = second.receipt.channelId = forgedId;
        first.signature = signature(stranger.key, _digest(first.receipt));
        second.signature = signature(stranger.key, _digest(second.receipt));
        _commit(stake.receiptsEvidence(payee.account, forgedId, first.receipt.sessionId, 7), reporter);
        _refused(
            abi.encodeWithSelector(IStake.ChannelOfAnother.selector, forgedId), _delegation(), forged, first, second
        );
        SignedDelegation memory claimed = _delegation();
        claimed.delegation.authorizer = stranger.account;
        _refused(
            abi.encodeWithSelector(IStake.DelegationInvalid.selector, payee.account, stranger.account),
            claimed,
            forged,
            first,
            second
        );
        // And one's own channel with another's name convicts nobody but oneself.
        _refused(
            abi.encodeWithSelector(IStake.ChannelOfAnother.selector, forgedId), _delegation(), config, first, second
        );
    }

    /// One authorizer may act for two wallets: each answers for what it did in its own channels.
    function test_reportReceipts_ofAnotherPayeesChannelConvictsNobody() public {
        ChannelConfig memory other = config;
        other.payee = stranger.account;
        bytes32 otherId = channels.channelId(other);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        first.receipt.channelId = second.receipt.channelId = otherId;
        (first, second) = (_sign(first.receipt), _sign(second.receipt));
        _commit(stake.receiptsEvidence(payee.account, otherId, first.receipt.sessionId, 7), reporter);
        _refused(abi.encodeWithSelector(IStake.ChannelOfAnother.selector, otherId), _delegation(), other, first, second);
    }

    function test_aWalletAnswersForItsAuthorizerUntilGraceAfterExpiry() public {
        _commit(_receiptsEvidence(), reporter);
        vm.warp(EXPIRY + 7 days);
        uint256 state = vm.snapshotState();
        _reportReceipts();
        vm.revertToState(state);
        vm.warp(EXPIRY + 7 days + 1);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        _refused(_noLonger(EXPIRY + 7 days), _delegation(), config, first, second);
    }

    function test_aWalletAnswersForItsAuthorizerUntilGraceAfterRevocation() public {
        _commit(_receiptsEvidence(), reporter);
        uint256 revokedAt = vm.getBlockTimestamp();
        vm.prank(payee.account);
        keys.revoke(0, payeeAuthorizer.account);
        vm.warp(revokedAt + 7 days);
        uint256 state = vm.snapshotState();
        _reportReceipts();
        vm.revertToState(state);
        vm.warp(revokedAt + 7 days + 1);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        _refused(_noLonger(revokedAt + 7 days), _delegation(), config, first, second);
    }

    function test_aWalletOfCodeCannotTakeBackARegisteredDelegation() public {
        Wallet wallet = new Wallet(payee.account);
        config.payee = address(wallet);
        id = open(config, UNIT);
        _bond(address(wallet), 100 * UNIT);
        SignedDelegation memory delegation = _delegation();
        delegation.delegation.wallet = address(wallet);
        delegation.signature = signature(payee.key, keys.delegationDigest(delegation.delegation));
        keys.registerFor(delegation.delegation, delegation.signature);
        wallet.setOwner(stranger.account);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        _commit(stake.receiptsEvidence(address(wallet), id, first.receipt.sessionId, 7), reporter);
        // A longer delegation than is registered is not.
        uint64 expiry = delegation.delegation.expiry;
        delegation.delegation.expiry = expiry + 1;
        _refused(
            abi.encodeWithSelector(IStake.DelegationInvalid.selector, address(wallet), payeeAuthorizer.account),
            delegation,
            config,
            first,
            second
        );
        delegation.delegation.expiry = expiry;
        vm.prank(reporter);
        stake.reportReceipts(delegation, config, first, second, SALT);
        vm.assertEq(stake.bondOf(address(wallet)).amount, 100 * UNIT - PENALTY);
    }

    function test_delegationsOfNobodyToNobodyAreNone() public {
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        SignedDelegation memory none =
            SignedDelegation(Digests.Delegation(address(0), 0, address(0), EXPIRY), new bytes(65));
        first.signature = second.signature = new bytes(65);
        _commit(stake.receiptsEvidence(address(0), id, first.receipt.sessionId, 7), reporter);
        _refused(
            abi.encodeWithSelector(IStake.DelegationInvalid.selector, address(0), address(0)),
            none,
            config,
            first,
            second
        );
        none.delegation.wallet = payee.account;
        _commit(_receiptsEvidence(), reporter);
        _refused(
            abi.encodeWithSelector(IStake.DelegationInvalid.selector, payee.account, address(0)),
            none,
            config,
            first,
            second
        );
    }

    // Commitments

    function test_report_needsTheSendersOwnCommitmentInTime() public {
        bytes32 evidence = _receiptsEvidence();
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        bytes32 commitment = keccak256(abi.encode(evidence, reporter, SALT));
        _refused(
            abi.encodeWithSelector(IStake.CommitmentNotReady.selector, commitment, 0),
            _delegation(),
            config,
            first,
            second
        );
        stake.commit(commitment);
        uint256 ready = vm.getBlockTimestamp() + 5 minutes;
        vm.warp(ready - 1);
        _refused(
            abi.encodeWithSelector(IStake.CommitmentNotReady.selector, commitment, ready),
            _delegation(),
            config,
            first,
            second
        );
        vm.warp(ready);
        // Whoever copies it has not committed to it, and cannot have.
        bytes32 copied = keccak256(abi.encode(evidence, stranger.account, SALT));
        vm.expectRevert(abi.encodeWithSelector(IStake.CommitmentNotReady.selector, copied, 0));
        vm.prank(stranger.account);
        stake.reportReceipts(_delegation(), config, first, second, SALT);
        _reportReceipts();
        vm.expectRevert(abi.encodeWithSelector(IStake.CommitmentExists.selector, commitment));
        stake.commit(commitment);
    }

    // Blocks

    function test_reportBlock_ofEachPlaceInTheTree() public {
        _reportBlock(0, LEAF_0, _proof0());
        vm.assertEq(token.balanceOf(reporter), 5 * UNIT);
        _reportBlock(4, LEAF_4, _proof4());
        vm.assertEq(token.balanceOf(reporter), 10 * UNIT);
    }

    function test_reportBlock_ofAFileOfOneBlock() public {
        bytes32 root = sha256("short");
        Block memory statement = Block(root, 5, 0, keccak256("rubbish"));
        _commitBlock(statement);
        SignedBlock memory served = _sign(statement);
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, root, new bytes32[](0), SALT);
        vm.assertEq(token.balanceOf(reporter), 5 * UNIT);
    }

    function test_reportBlock_revertsIfTheBlockIsTrue() public {
        Block memory statement = Block(ROOT, LENGTH, 0, LEAF_0);
        _commitBlock(statement);
        SignedBlock memory served = _sign(statement);
        vm.expectRevert(IStake.BlockIsTrue.selector);
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, LEAF_0, _proof0(), SALT);
    }

    /// An inner node and its shorter way to the root prove nothing about a leaf.
    function test_reportBlock_revertsIfAnInnerNodePassesForALeaf() public {
        Block memory statement = Block(ROOT, LENGTH, 0, LEAF_0);
        _commitBlock(statement);
        bytes32[] memory whole = _proof0();
        bytes32 inner = sha256(abi.encode(LEAF_0, whole[0]));
        bytes32[] memory rest = new bytes32[](2);
        (rest[0], rest[1]) = (whole[1], whole[2]);
        SignedBlock memory served = _sign(statement);
        vm.expectRevert(IStake.ProofInvalid.selector);
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, inner, rest, SALT);
    }

    function test_reportBlock_revertsIfTheProofIsWrong() public {
        Block memory statement = Block(ROOT, LENGTH, 0, keccak256("rubbish"));
        _commitBlock(statement);
        SignedBlock memory served = _sign(statement);
        bytes32[] memory proof = _proof0();
        vm.startPrank(reporter);
        vm.expectRevert(IStake.ProofInvalid.selector);
        stake.reportBlock(_delegation(), served, LEAF_4, proof, SALT);
        proof[1] = 0;
        vm.expectRevert(IStake.ProofInvalid.selector);
        stake.reportBlock(_delegation(), served, LEAF_0, proof, SALT);
        vm.stopPrank();
        // The filling beyond the last block is no block.
        statement = Block(ROOT, LENGTH, 5, keccak256("rubbish"));
        _commitBlock(statement);
        served = _sign(statement);
        proof = _proof4();
        proof[0] = LEAF_4;
        vm.expectRevert(IStake.ProofInvalid.selector);
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, 0, proof, SALT);
    }

    function test_reportBlock_revertsIfAnotherSignedOrElsewhere() public {
        Block memory statement = Block(ROOT, LENGTH, 0, keccak256("rubbish"));
        _commitBlock(statement);
        bytes32 digest = stake.blockDigest(statement);
        SignedBlock memory served = SignedBlock(statement, signature(stranger.key, digest));
        vm.expectRevert(abi.encodeWithSelector(IStake.EvidenceSignatureInvalid.selector, digest));
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, LEAF_0, _proof0(), SALT);
        Stake other = new Stake(keys, address(token), PENALTY);
        served.signature = signature(payeeAuthorizer.key, other.blockDigest(statement));
        vm.expectRevert(abi.encodeWithSelector(IStake.EvidenceSignatureInvalid.selector, digest));
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, LEAF_0, _proof0(), SALT);
    }

    /// Every leaf of every small file has its proof, and no other hash has.
    function testFuzz_tree_isThatOfTheWholeFile(uint8 count, uint8 which, uint16 tail, bytes32 seed) public {
        uint256 blocks = uint256(count) % 20 + 1;
        uint256 index = which % blocks;
        uint64 length = uint64((blocks - 1) * 16384 + tail % 16384 + 1);
        bytes32[] memory leaves = new bytes32[](blocks);
        for (uint256 i = 0; i < blocks; ++i) {
            leaves[i] = sha256(abi.encode(seed, i));
        }
        (bytes32 root, bytes32[] memory proof) = _plainTree(leaves, index);
        Block memory statement = Block(root, length, uint64(index), seed);
        _commitBlock(statement);
        SignedBlock memory served = _sign(statement);
        bytes32 wrong = sha256(abi.encode(leaves[index]));
        vm.expectRevert(IStake.ProofInvalid.selector);
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, wrong, proof, SALT);
        vm.prank(reporter);
        stake.reportBlock(_delegation(), served, leaves[index], proof, SALT);
        vm.assertEq(token.balanceOf(reporter), 5 * UNIT);
    }

    // Bonds

    function test_unbond_waitsAndCanBeSlashedMeanwhile() public {
        vm.startPrank(payee.account);
        vm.expectRevert(abi.encodeWithSelector(IBonds.UnbondingTooEarly.selector, 0));
        stake.unbond(payee.account);
        stake.announceLeaving(100 * UNIT);
        vm.assertEq(stake.covered(payee.account), 0);
        vm.stopPrank();
        uint40 due = stake.bondOf(payee.account).due;
        vm.assertEq(due, vm.getBlockTimestamp() + 30 days);
        vm.assertGe(stake.UNBONDING(), stake.GRACE() + stake.REVEAL_DELAY(), "evidence outlasts the bond");
        _commit(_receiptsEvidence(), reporter);
        vm.warp(due - 1);
        vm.prank(payee.account);
        vm.expectRevert(abi.encodeWithSelector(IBonds.UnbondingTooEarly.selector, due));
        stake.unbond(payee.account);
        _reportReceipts();
        vm.warp(due);
        vm.prank(payee.account);
        vm.assertEq(stake.unbond(stranger.account), 100 * UNIT - PENALTY);
        vm.assertEq(token.balanceOf(stranger.account), 100 * UNIT - PENALTY);
        vm.assertEq(token.balanceOf(address(stake)), 0);
        vm.prank(payee.account);
        vm.expectRevert(abi.encodeWithSelector(IBonds.UnbondingTooEarly.selector, 0));
        stake.unbond(stranger.account);
    }

    function test_bond_revertsForNobodyAndNothing() public {
        vm.expectRevert(IBonds.AmountZero.selector);
        stake.bond(payee.account, 0);
        vm.expectRevert(abi.encodeWithSelector(IBonds.RecipientInvalid.selector, address(0)));
        stake.bond(address(0), 1);
        vm.expectRevert(IBonds.AmountZero.selector);
        new Stake(keys, address(token), 0);
    }

    function test_everyFunction_isShutDuringTokenCalls() public {
        ReentrantToken wicked = new ReentrantToken();
        stake = new Stake(keys, address(wicked), PENALTY);
        wicked.mint(address(this), 10);
        wicked.approve(address(stake), 10);
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        bytes[] memory inner = new bytes[](6);
        inner[0] = abi.encodeCall(IBonds.bond, (payee.account, 1));
        inner[1] = abi.encodeCall(IBonds.announceLeaving, (1));
        inner[2] = abi.encodeCall(IBonds.unbond, (payee.account));
        inner[3] = abi.encodeCall(IStake.commit, (SALT));
        inner[4] = abi.encodeCall(IStake.reportReceipts, (_delegation(), config, first, second, SALT));
        SignedBlock memory served = _sign(Block(ROOT, LENGTH, 0, 0));
        inner[5] = abi.encodeCall(IStake.reportBlock, (_delegation(), served, LEAF_0, _proof0(), SALT));
        for (uint256 i = 0; i < inner.length; ++i) {
            wicked.arm(address(stake), inner[i]);
            stake.bond(payee.account, 1);
            vm.assertFalse(wicked.entered());
            vm.assertEq(
                wicked.answer(), abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
            );
        }
    }

    // What the tests are made of

    function _bond(address holder, uint128 amount) private {
        token.mint(address(this), amount);
        token.approve(address(stake), amount);
        stake.bond(holder, amount);
    }

    /// Takes `amount` out of the payee's bond and comes back to the day before.
    function _leave(uint128 amount) private {
        uint256 today = vm.getBlockTimestamp();
        vm.startPrank(payee.account);
        stake.announceLeaving(amount);
        vm.warp(today + 30 days);
        stake.unbond(payee.account);
        vm.stopPrank();
        vm.warp(today);
    }

    function _delegation() private view returns (SignedDelegation memory) {
        return signed;
    }

    function _receipts() private view returns (SignedReceipt memory first, SignedReceipt memory second) {
        Digests.Receipt memory receipt =
            Digests.Receipt(id, keccak256("session"), 7, 1000, 2000, UNIT, keccak256("previous"), 1_800_000_000_000);
        first = _sign(receipt);
        receipt.down = 2001;
        second = _sign(receipt);
    }

    function _sign(Digests.Receipt memory receipt) private view returns (SignedReceipt memory) {
        Digests.Receipt memory copy = abi.decode(abi.encode(receipt), (Digests.Receipt));
        return SignedReceipt(copy, signature(payeeAuthorizer.key, _digest(receipt)));
    }

    function _digest(Digests.Receipt memory receipt) private view returns (bytes32) {
        return Digests.receipt(channels.domainSeparator(), receipt);
    }

    function _sign(Block memory statement) private view returns (SignedBlock memory) {
        return SignedBlock(statement, signature(payeeAuthorizer.key, stake.blockDigest(statement)));
    }

    function _receiptsEvidence() private view returns (bytes32) {
        return stake.receiptsEvidence(payee.account, id, keccak256("session"), 7);
    }

    function _commit(bytes32 evidence, address who) private returns (bytes32) {
        stake.commit(keccak256(abi.encode(evidence, who, SALT)));
        vm.warp(vm.getBlockTimestamp() + 5 minutes);
        return evidence;
    }

    function _commitBlock(Block memory statement) private {
        _commit(stake.blockEvidence(payee.account, statement), reporter);
    }

    function _reportReceipts() private {
        (SignedReceipt memory first, SignedReceipt memory second) = _receipts();
        SignedDelegation memory delegation = _delegation();
        vm.prank(reporter);
        stake.reportReceipts(delegation, config, first, second, SALT);
    }

    function _reportBlock(uint64 index, bytes32 leaf, bytes32[] memory proof) private {
        Block memory statement = Block(ROOT, LENGTH, index, keccak256("rubbish"));
        _commitBlock(statement);
        SignedBlock memory served = _sign(statement);
        SignedDelegation memory delegation = _delegation();
        vm.prank(reporter);
        stake.reportBlock(delegation, served, leaf, proof, SALT);
    }

    function _refused(
        bytes memory reason,
        SignedDelegation memory delegation,
        ChannelConfig memory channel,
        SignedReceipt memory first,
        SignedReceipt memory second
    ) private {
        vm.expectRevert(reason);
        vm.prank(reporter);
        stake.reportReceipts(delegation, channel, first, second, SALT);
    }

    function _noLonger(uint256 until) private view returns (bytes memory) {
        return abi.encodeWithSelector(
            IStake.AuthorizerNoLongerAnswers.selector, payee.account, payeeAuthorizer.account, until
        );
    }

    function _proof0() private pure returns (bytes32[] memory proof) {
        proof = new bytes32[](3);
        proof[0] = 0x362509d1312d144ea96cec288f5f914332ac3db238e1010fc851e6bca33cf1f9;
        proof[1] = 0x6c09ee7eb144bbb8e451e1c7d03eb252f1d23f6e8fbd5834f79138b2bb52be0d;
        proof[2] = 0x53d4fe9c1d57bf297fb8a829072c3744388ab1f731e503dac6e049e0393d949d;
    }

    function _proof4() private pure returns (bytes32[] memory proof) {
        proof = new bytes32[](3);
        proof[1] = 0xf5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b;
        proof[2] = 0x44f125e1f1079503502ca482aaedebce5d1ad8b2a2b6b7f8988d2c5d14fed854;
    }

    /// The whole tree, level by level, and the siblings on the way.
    function _plainTree(bytes32[] memory leaves, uint256 index)
        private
        pure
        returns (bytes32 root, bytes32[] memory proof)
    {
        uint256 width = 1;
        uint256 height;
        while (width < leaves.length) (width, height) = (width * 2, height + 1);
        bytes32[] memory level = new bytes32[](width);
        for (uint256 i = 0; i < leaves.length; ++i) {
            level[i] = leaves[i];
        }
        proof = new bytes32[](height);
        for (uint256 h = 0; h < height; ++h) {
            proof[h] = level[index ^ 1];
            width /= 2;
            for (uint256 i = 0; i < width; ++i) {
                level[i] = sha256(bytes.concat(level[2 * i], level[2 * i + 1]));
            }
            index /= 2;
        }
        root = level[0];
    }
}
