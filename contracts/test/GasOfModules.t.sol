// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Arbitration} from "../src/Arbitration.sol";
import {Keys} from "../src/Keys.sol";
import {Stake} from "../src/Stake.sol";
import {Towers} from "../src/Towers.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Appointment} from "../src/types/Appointment.sol";
import {ChannelConfig, Claim} from "../src/types/Channel.sol";
import {Block, SignedBlock, SignedDelegation, SignedReceipt} from "../src/types/Evidence.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {vm} from "./support/Vm.sol";

/// What whole transactions of keys, towers, stake and arbitration cost, as in `Gas.t.sol`. Balances of those who are paid
/// are not zero before.
/// forge-config: default.isolate = true
contract GasOfModulesTest is ChannelsTest {
    Keys private keys;
    Stake private stake;
    Towers private towers;
    Arbitration private arbitration;

    bytes32 private constant DEVICE = keccak256("device");
    uint64 private constant EXPIRY = 1_800_000_000 + 30 days;

    function setUp() public override {
        super.setUp();
        keys = new Keys(channels);
        stake = new Stake(keys, address(token), UNIT);
        towers = new Towers(channels);
        arbitration = new Arbitration(address(token), stranger.account, stranger.account, UNIT);
        token.mint(address(this), 1000 * UNIT);
        token.mint(stranger.account, UNIT);
        token.mint(stake.BURNED(), UNIT);
        token.approve(address(stake), type(uint256).max);
        token.approve(address(towers), type(uint256).max);
        token.approve(address(arbitration), type(uint256).max);
        stake.bond(payee.account, 10 * UNIT);
        arbitration.bond(payee.account, 10 * UNIT);
        arbitration.bond(payer.account, 10 * UNIT);
        towers.deposit(payee.account, payeeAuthorizer.account, address(token), 10 * UNIT);
    }

    function test_keys() public {
        Digests.Delegation memory delegation =
            Digests.Delegation(payee.account, DEVICE, payeeAuthorizer.account, EXPIRY);
        bytes memory signed = signature(payee.key, keys.delegationDigest(delegation));
        vm.prank(stranger.account);
        keys.registerFor(delegation, signed);
        _record("keys: registerFor", 90_000);
        keys.standing(payee.account, DEVICE, payeeAuthorizer.account);
        _record("keys: standing, the call alone", 10_000);
        Digests.Delegation memory next = Digests.Delegation(payee.account, DEVICE, stranger.account, EXPIRY);
        vm.prank(payee.account);
        keys.rotate(0, payeeAuthorizer.account, next);
        _record("keys: rotate an authorizer", 110_000);
        signed = signature(payee.key, keys.revocationDigest(payee.account, DEVICE, stranger.account, EXPIRY));
        vm.prank(stranger.account);
        keys.revokeFor(payee.account, DEVICE, stranger.account, EXPIRY, signed);
        _record("keys: revokeFor a device and an authorizer", 110_000);
        vm.prank(payee.account);
        keys.setCap(payeeAuthorizer.account, address(token), uint104(UNIT));
        _record("keys: setCap", 55_000);
    }

    function test_towers() public {
        towers.deposit(payee.account, payeeAuthorizer.account, address(token), UNIT);
        _record("towers: deposit", 65_000);
        (ChannelConfig memory config, bytes32 id) = opened(10 * UNIT);
        claim(config, UNIT);
        vm.prank(payer.account);
        channels.startClose(config);
        Appointment memory appointment = Appointment(id, 5 * UNIT, payee.account, address(token), UNIT, EXPIRY);
        bytes memory signed = signature(payeeAuthorizer.key, towers.appointmentDigest(appointment));
        Claim memory last = voucher(config, 5 * UNIT);
        vm.prank(stranger.account);
        towers.defend(last, appointment, signed, stranger.account);
        _record("towers: defend", 150_000);
        vm.prank(stranger.account);
        (bool done,) =
            address(towers).call(abi.encodeCall(towers.defend, (last, appointment, signed, stranger.account)));
        vm.assertFalse(done);
        _record("towers: defend, too late", 50_000);
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        vm.prank(stranger.account);
        towers.collect(config);
        _record("towers: collect, with finishClose", 100_000);
    }

    function test_stake_receipts() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        SignedReceipt memory first = _sign(Digests.Receipt(id, DEVICE, 7, 1, 2, UNIT, DEVICE, 1_800_000_000_000));
        SignedReceipt memory second = _sign(Digests.Receipt(id, DEVICE, 7, 1, 3, UNIT, DEVICE, 1_800_000_000_000));
        SignedDelegation memory delegation = _delegation();
        _commit(stake.receiptsEvidence(payee.account, id, DEVICE, 7));
        _record("stake: commit", 55_000);
        vm.warp(vm.getBlockTimestamp() + 5 minutes);
        vm.prank(stranger.account);
        stake.reportReceipts(delegation, config, first, second, DEVICE);
        _record("stake: reportReceipts", 180_000);
    }

    function test_stake_block() public {
        // The last block of a file of 16 GiB: a way of 20.
        bytes32[] memory proof = new bytes32[](20);
        bytes32 leaf = keccak256("leaf");
        bytes32 root = leaf;
        for (uint256 i = 0; i < 20; ++i) {
            proof[i] = keccak256(abi.encode(i));
            root = sha256(abi.encode(proof[i], root));
        }
        Block memory statement = Block(root, 1 << 34, (1 << 20) - 1, keccak256("rubbish"));
        SignedBlock memory served = SignedBlock(statement, signature(payeeAuthorizer.key, stake.blockDigest(statement)));
        SignedDelegation memory delegation = _delegation();
        _commit(stake.blockEvidence(payee.account, statement));
        vm.warp(vm.getBlockTimestamp() + 5 minutes);
        vm.prank(stranger.account);
        stake.reportBlock(delegation, served, leaf, proof, DEVICE);
        _record("stake: reportBlock in a file of 16 GiB", 180_000);
    }

    function test_bonds() public {
        stake.bond(payee.account, UNIT);
        _record("stake: bond", 65_000);
        vm.prank(payee.account);
        stake.announceLeaving(UNIT);
        _record("stake: announceLeaving", 75_000);
        vm.warp(vm.getBlockTimestamp() + 30 days);
        vm.prank(payee.account);
        stake.unbond(payee.account);
        _record("stake: unbond", 75_000);
    }

    function test_arbitration() public {
        vm.prank(payer.account);
        uint256 id = arbitration.complain(payee.account, DEVICE);
        _record("arbitration: complain", 160_000);
        vm.prank(payee.account);
        arbitration.answer(id, DEVICE);
        _record("arbitration: answer", 45_000);
        vm.prank(stranger.account);
        arbitration.rule(id, true);
        _record("arbitration: rule", 45_000);
        vm.warp(vm.getBlockTimestamp() + 8 days);
        arbitration.settle(id);
        _record("arbitration: settle", 110_000);
    }

    function _delegation() private view returns (SignedDelegation memory) {
        Digests.Delegation memory delegation =
            Digests.Delegation(payee.account, DEVICE, payeeAuthorizer.account, EXPIRY);
        return SignedDelegation(delegation, signature(payee.key, keys.delegationDigest(delegation)));
    }

    function _sign(Digests.Receipt memory receipt) private view returns (SignedReceipt memory) {
        bytes32 digest = Digests.receipt(channels.domainSeparator(), receipt);
        return SignedReceipt(receipt, signature(payeeAuthorizer.key, digest));
    }

    function _commit(bytes32 evidence) private {
        stake.commit(keccak256(abi.encode(evidence, stranger.account, DEVICE)));
    }

    function _record(string memory what, uint256 target) private {
        uint256 used = vm.lastCallGas().gasTotalUsed;
        vm.snapshotValue("gas", what, used);
        vm.assertLe(used, target, what);
    }
}
