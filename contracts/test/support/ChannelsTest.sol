// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../../src/Channels.sol";
import {TestToken} from "../../src/TestToken.sol";
import {IChannels} from "../../src/interfaces/IChannels.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "../../src/types/Channel.sol";
import {Wallet} from "./Wallet.sol";
import {bound, vm} from "./Vm.sol";

/// A person with a key.
struct Person {
    uint256 key;
    address account;
}

/// Vouchers, closes and packed claims as clients make them, and the people of the tests.
abstract contract ChannelsTest {
    Channels internal channels;
    TestToken internal token;

    Person internal payer = person("payer");
    Person internal payerAuthorizer = person("payer authorizer");
    Person internal payee = person("payee");
    Person internal payeeAuthorizer = person("payee authorizer");
    Person internal stranger = person("stranger");

    uint128 internal constant UNIT = 1e6;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        channels = new Channels();
        token = new TestToken();
        fund(payer.account, 1000 * UNIT);
    }

    function person(string memory name) internal pure returns (Person memory) {
        uint256 key = uint256(keccak256(bytes(name)));
        return Person(key, vm.addr(key));
    }

    /// Mints, approves without limit and deposits.
    function fund(address who, uint128 amount) internal {
        token.mint(who, amount);
        vm.startPrank(who);
        token.approve(address(channels), type(uint256).max);
        channels.deposit(address(token), amount);
        vm.stopPrank();
    }

    function usualConfig() internal view returns (ChannelConfig memory) {
        return ChannelConfig({
            payer: payer.account,
            payerAuthorizer: payerAuthorizer.account,
            payee: payee.account,
            payeeAuthorizer: payeeAuthorizer.account,
            token: address(token),
            withdrawDelay: 1 days,
            salt: bytes32(uint256(1))
        });
    }

    function opened(uint128 amount) internal returns (ChannelConfig memory config, bytes32 id) {
        config = usualConfig();
        id = open(config, amount);
    }

    function open(ChannelConfig memory config, uint128 amount) internal returns (bytes32 id) {
        vm.prank(config.payer);
        channels.open(config, amount);
        id = channels.channelId(config);
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function compactSignature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
        return abi.encodePacked(r, vs);
    }

    function voucher(ChannelConfig memory config, uint128 amount, uint256 key) internal view returns (Claim memory) {
        bytes32 digest = channels.voucherDigest(channels.channelId(config), amount);
        return Claim(config, amount, signature(key, digest));
    }

    function voucher(ChannelConfig memory config, uint128 amount) internal view returns (Claim memory) {
        return voucher(config, amount, payerAuthorizer.key);
    }

    function one(Claim memory entry) internal pure returns (Claim[] memory claims) {
        claims = new Claim[](1);
        claims[0] = entry;
    }

    function claim(ChannelConfig memory config, uint128 amount) internal {
        channels.claim(one(voucher(config, amount)));
    }

    function closeSignature(ChannelConfig memory config, uint128 amount, uint256 key)
        internal
        view
        returns (bytes memory)
    {
        return signature(key, channels.cooperativeCloseDigest(channels.channelId(config), amount));
    }

    function packedHeader(ChannelConfig memory config) internal pure returns (bytes memory) {
        return abi.encodePacked(config.token, config.payee, config.payeeAuthorizer, config.withdrawDelay);
    }

    function packedEntry(ChannelConfig memory config, uint128 amount, uint256 key)
        internal
        view
        returns (bytes memory)
    {
        bytes32 digest = channels.voucherDigest(channels.channelId(config), amount);
        return abi.encodePacked(
            config.payer,
            config.payerAuthorizer,
            uint64(uint256(config.salt)),
            uint104(amount),
            compactSignature(key, digest)
        );
    }

    function packed(ChannelConfig memory config, uint128 amount, uint256 key) internal view returns (bytes memory) {
        return bytes.concat(packedHeader(config), packedEntry(config, amount, key));
    }

    function packed(ChannelConfig memory config, uint128 amount) internal view returns (bytes memory) {
        return packed(config, amount, payerAuthorizer.key);
    }

    function deposits(address who) internal view returns (uint256) {
        return channels.depositOf(who, address(token));
    }

    function claimable(address who) internal view returns (uint256) {
        return channels.claimableOf(who, address(token));
    }

    function assertChannel(bytes32 id, uint256 reserved, uint256 claimed, uint256 closeAt, Status status)
        internal
        view
    {
        ChannelState memory state = channels.channel(id);
        vm.assertEq(state.reserved, reserved, "reserved");
        vm.assertEq(state.claimed, claimed, "claimed");
        vm.assertEq(state.closeAt, closeAt, "closeAt");
        vm.assertEq(uint256(state.status), uint256(status), "status");
    }

    /// The next call must be refused with an error that carries the channel's id alone.
    function expectRefusal(bytes4 selector, bytes32 id) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, id));
    }
}
