// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig, Claim, Status} from "../src/types/Channel.sol";
import {ChannelsTest, Person} from "./support/ChannelsTest.sol";
import {Vm, bound, vm} from "./support/Vm.sol";

contract PackedTest is ChannelsTest {
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint256 private constant CHANNELS = 6;

    Person private second = person("second payer");

    function test_claimPacked_creditsAndTellsInOneEvent() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        ChannelConfig memory other = usualConfig();
        other.salt = bytes32(uint256(type(uint64).max));
        bytes32 otherId = open(other, UNIT);
        bytes memory data = bytes.concat(packed(config, 7), packedEntry(other, UNIT, payerAuthorizer.key));
        vm.expectEmit(address(channels));
        emit IChannels.ClaimedBatch(
            payee.account, address(token), abi.encodePacked(id, uint104(7), otherId, uint104(UNIT))
        );
        channels.claimPacked(data);
        vm.assertEq(claimable(payee.account), UNIT + 7);
        assertChannel(id, UNIT, 7, 0, Status.Open);
        assertChannel(otherId, UNIT, UNIT, 0, Status.Open);
    }

    function test_claimPacked_tellsNothingIfNothingIsNew() public {
        (ChannelConfig memory config,) = opened(UNIT);
        channels.claimPacked(packed(config, UNIT));
        bytes memory data = packed(config, UNIT);
        vm.recordLogs();
        channels.claimPacked(data);
        vm.assertEq(vm.getRecordedLogs().length, 0);
        vm.assertEq(claimable(payee.account), UNIT);
    }

    function test_claimPacked_revertsIfLengthIsWrong(uint256 length) public {
        length = bound(length, 0, 1000);
        vm.assume(length < 190 || (length - 65) % 125 != 0);
        vm.expectRevert(abi.encodeWithSelector(IChannels.PackedLengthInvalid.selector, length));
        channels.claimPacked(new bytes(length));
        vm.expectRevert(abi.encodeWithSelector(IChannels.PackedLengthInvalid.selector, length));
        channels.claimPackedAndSweep(new bytes(length));
    }

    function test_claimPacked_revertsIfHeaderStandsAlone() public {
        vm.expectRevert(abi.encodeWithSelector(IChannels.PackedLengthInvalid.selector, 65));
        channels.claimPacked(packedHeader(usualConfig()));
    }

    function test_claimPacked_revertsIfChannelIsUnknown() public {
        bytes memory data = packed(usualConfig(), 0);
        expectRefusal(IChannels.ChannelUnknown.selector, channels.channelId(usualConfig()));
        channels.claimPacked(data);
    }

    function test_claimPacked_revertsIfAboveReserved() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        bytes memory data = packed(config, UNIT + 1);
        vm.expectRevert(abi.encodeWithSelector(IChannels.AmountAboveReserved.selector, id, UNIT + 1, UNIT));
        channels.claimPacked(data);
    }

    function test_claimPacked_revertsIfSignedByAnother() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        bytes memory data = packed(config, UNIT, payer.key);
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.claimPacked(data);
    }

    function test_claimPacked_revertsIfSignatureRecoversToNobody() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        bytes memory data = packed(config, UNIT);
        for (uint256 i = data.length - 64; i < data.length; ++i) {
            data[i] = 0;
        }
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.claimPacked(data);
    }

    function test_claimPacked_revertsIfAuthorizerIsZeroAndSignatureRecoversToNobody() public {
        ChannelConfig memory config = usualConfig();
        config.payerAuthorizer = address(0);
        bytes32 id = open(config, UNIT);
        bytes memory data = packed(config, UNIT, payer.key);
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.claimPacked(data);
        for (uint256 i = data.length - 64; i < data.length; ++i) {
            data[i] = 0;
        }
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.claimPacked(data);
    }

    function test_claimPacked_revertsIfSIsHigh() public {
        // vs has one bit for v and so no room for most high s; those that fit are refused.
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        uint128 amount = 1;
        bytes32 r;
        bytes32 s;
        uint8 v;
        (v, r, s) = vm.sign(payerAuthorizer.key, channels.voucherDigest(id, amount));
        bytes32 high = bytes32(ORDER - uint256(s));
        // The high form needs bit 255, which EIP-2098 reads as v: it recovers to somebody else, or s stays too high.
        bytes memory data = bytes.concat(
            packedHeader(config),
            abi.encodePacked(config.payer, config.payerAuthorizer, uint64(1), uint104(amount), r, high)
        );
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.claimPacked(data);
    }

    function test_claimPacked_revertsWholeBatchIfOneIsWrong() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        ChannelConfig memory other = usualConfig();
        other.salt = bytes32(uint256(2));
        bytes32 otherId = open(other, UNIT);
        bytes memory data = bytes.concat(packed(config, 7), packedEntry(other, 7, stranger.key));
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, otherId);
        channels.claimPacked(data);
        vm.assertEq(channels.channel(id).claimed, 0);
    }

    function test_claimPacked_takesSeveralOfOneChannel() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        channels.claimPacked(
            bytes.concat(
                packed(config, 5),
                packedEntry(config, 3, payerAuthorizer.key),
                packedEntry(config, 9, payerAuthorizer.key)
            )
        );
        vm.assertEq(claimable(payee.account), 9);
        vm.assertEq(channels.channel(id).claimed, 9);
    }

    function test_claimPackedAndSweep_paysAllThatWasEarned(address sender) public {
        (ChannelConfig memory config,) = opened(UNIT);
        claim(config, 3);
        bytes memory data = packed(config, UNIT);
        vm.expectEmit(address(channels));
        emit IChannels.Swept(payee.account, address(token), UNIT);
        vm.prank(sender);
        channels.claimPackedAndSweep(data);
        vm.assertEq(token.balanceOf(payee.account), UNIT);
        vm.assertEq(claimable(payee.account), 0);
    }

    function test_claimPackedAndSweep_sweepsThoughNothingIsNew() public {
        (ChannelConfig memory config,) = opened(UNIT);
        claim(config, UNIT);
        channels.claimPackedAndSweep(packed(config, UNIT));
        vm.assertEq(token.balanceOf(payee.account), UNIT);
        channels.claimPackedAndSweep(packed(config, UNIT));
        vm.assertEq(token.balanceOf(payee.account), UNIT);
    }

    /// One entry of a fuzzed batch: which channel, what amount, and what may be wrong with it.
    struct Draft {
        uint8 channel;
        uint128 amount;
        uint8 flaw;
    }

    /// Six channels of two payers: four open, one closing, one closed; batches with stale, doubled, unknown, excessive and
    /// wrongly signed entries. Packed and plain must refuse with the same words, or do the same.
    function test_claimPacked_doesAsPlainClaim(
        Draft[] memory drafts,
        uint128[6] memory reserves,
        uint128[6] memory before
    ) public {
        ChannelConfig[] memory configs = _world(reserves, before);
        uint256 count = bound(drafts.length, 1, 8);
        Claim[] memory claims = new Claim[](count);
        bytes memory data = packedHeader(configs[0]);
        for (uint256 i = 0; i < count; ++i) {
            Draft memory draft = i < drafts.length ? drafts[i] : Draft(0, 1, 0);
            (claims[i], data) = _entry(configs, draft, data);
        }

        uint256 state = vm.snapshotState();
        (bool plainDone, bytes memory plainAnswer) = address(channels).call(abi.encodeCall(IChannels.claim, (claims)));
        bytes memory plainState = _state(configs);
        vm.revertToState(state);

        vm.recordLogs();
        (bool done, bytes memory answer) = address(channels).call(abi.encodeCall(IChannels.claimPacked, (data)));
        vm.assertTrue(done == plainDone, "outcome");
        vm.assertEq(answer, plainAnswer);
        vm.assertEq(_state(configs), plainState);
        uint256 credited = claimable(payee.account);
        vm.revertToState(state);
        uint256 earlier = claimable(payee.account);

        // With the sweep it is the same, and all that was earned is paid.
        (bool sweptDone, bytes memory sweptAnswer) =
            address(channels).call(abi.encodeCall(IChannels.claimPackedAndSweep, (data)));
        vm.assertTrue(done == sweptDone, "outcome with sweep");
        vm.assertEq(sweptAnswer, answer);
        vm.assertEq(token.balanceOf(payee.account), done ? credited : 0);
        vm.assertEq(claimable(payee.account), done ? 0 : earlier);
    }

    /// What the batch event tells is what the channels say afterwards.
    function test_claimPacked_logIsTheTruth(
        uint128[6] memory reserves,
        uint128[6] memory before,
        uint128[6] memory amounts
    ) public {
        ChannelConfig[] memory configs = _world(reserves, before);
        bytes memory data = packedHeader(configs[0]);
        bytes memory expected;
        for (uint256 i = 0; i < CHANNELS; ++i) {
            bytes32 id = channels.channelId(configs[i]);
            uint128 claimed = channels.channel(id).claimed;
            uint128 amount = uint128(bound(amounts[i], 0, channels.channel(id).reserved));
            data = bytes.concat(data, packedEntry(configs[i], amount, _key(i)));
            if (amount > claimed && channels.channel(id).status != Status.Closed) {
                expected = bytes.concat(expected, abi.encodePacked(id, uint104(amount)));
            }
        }
        vm.recordLogs();
        channels.claimPacked(data);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        vm.assertEq(logs.length, expected.length == 0 ? 0 : 1);
        if (logs.length == 1) {
            vm.assertEq(logs[0].data, abi.encode(expected));
            vm.assertEq(logs[0].topics[0], IChannels.ClaimedBatch.selector);
        }
    }

    function _key(uint256 i) private view returns (uint256) {
        return i % 2 == 0 ? payerAuthorizer.key : second.key;
    }

    function _world(uint128[6] memory reserves, uint128[6] memory before)
        private
        returns (ChannelConfig[] memory configs)
    {
        configs = new ChannelConfig[](CHANNELS);
        for (uint256 i = 0; i < CHANNELS; ++i) {
            configs[i] = usualConfig();
            configs[i].salt = bytes32(uint256(keccak256(abi.encode(i))) >> 192);
            if (i % 2 == 1) (configs[i].payer, configs[i].payerAuthorizer) = (second.account, second.account);
            uint128 reserved = uint128(bound(reserves[i], 1, type(uint104).max));
            fund(configs[i].payer, reserved);
            open(configs[i], reserved);
            uint128 claimed = uint128(bound(before[i], 0, reserved));
            channels.claim(one(voucher(configs[i], claimed, _key(i))));
        }
        vm.prank(configs[4].payer);
        channels.startClose(configs[4]);
        Claim memory last = voucher(configs[5], 0, second.key);
        vm.startPrank(payee.account);
        channels.closeCooperatively(last, "");
        vm.stopPrank();
    }

    function _entry(ChannelConfig[] memory configs, Draft memory draft, bytes memory data)
        private
        view
        returns (Claim memory entry, bytes memory grown)
    {
        uint256 i = bound(draft.channel, 0, CHANNELS - 1);
        ChannelConfig memory config = configs[i];
        uint256 reserved = channels.channel(channels.channelId(config)).reserved;
        uint256 flaw = draft.flaw % 16;
        // Most amounts are good, some too high.
        uint128 amount =
            uint128(flaw == 0 ? bound(draft.amount, 0, type(uint104).max) : bound(draft.amount, 0, reserved));
        uint256 key = flaw == 1 ? stranger.key : _key(i);
        if (flaw == 2) {
            // A channel that was never opened.
            (config = usualConfig()).salt = bytes32(uint256(draft.channel));
            key = payerAuthorizer.key;
        }
        entry = voucher(config, amount, key);
        grown = bytes.concat(data, packedEntry(config, amount, key));
    }

    function _state(ChannelConfig[] memory configs) private view returns (bytes memory state) {
        state = abi.encode(claimable(payee.account), deposits(payer.account), deposits(second.account));
        for (uint256 i = 0; i < CHANNELS; ++i) {
            state = bytes.concat(state, abi.encode(channels.channel(channels.channelId(configs[i]))));
        }
    }
}
