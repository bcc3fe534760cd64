// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../src/Channels.sol";
import {Keys} from "../src/Keys.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Standing} from "../src/types/Standing.sol";
import {vm} from "../test/support/Vm.sol";

/// One call of each entry point of `Keys` after one revocation and one registration, at any time, with any signatures of 65
/// bytes: by any sender, or (`…For`) for one wallet. Run by halmos, not by forge.
contract KeysSymbolic {
    Keys private keys;

    address private constant WALLET = address(0x1001);
    bytes32 private constant DEVICE = keccak256("device");
    bytes32 private constant NEXT = keccak256("next device");
    bytes32 private constant LOST = keccak256("lost device");
    address private constant AUTHORIZER = address(0x1003);
    address private constant STOLEN = address(0x1004);
    uint64 private constant NOW = 1_800_000_000;
    uint64 private constant EXPIRY = NOW + 30 days;

    function setUp() public {
        keys = new Keys(new Channels());
        vm.warp(NOW);
        vm.prank(WALLET);
        keys.revoke(LOST, STOLEN);
        vm.prank(WALLET);
        keys.register(Digests.Delegation(WALLET, DEVICE, AUTHORIZER, EXPIRY));
    }

    function check_register(address sender, uint64 time, Digests.Delegation calldata delegation) public {
        vm.warp(time);
        vm.prank(sender);
        (bool done,) = address(keys).call(abi.encodeCall(keys.register, (delegation)));
        if (done) assert(sender == delegation.wallet && time <= delegation.expiry);
        _stays(sender == WALLET);
    }

    function check_registerFor(address sender, uint64 expiry, uint64 time, bool lost, bytes32 r, bytes32 s, uint8 v)
        public
    {
        vm.warp(time);
        vm.prank(sender);
        (bool done,) = address(keys)
            .call(
                abi.encodeCall(
                    keys.registerFor,
                    (Digests.Delegation(WALLET, lost ? LOST : DEVICE, AUTHORIZER, expiry), abi.encodePacked(r, s, v))
                )
            );
        if (done) assert(!lost && time <= expiry);
        _stays(true);
        if (expiry <= EXPIRY) assert(keys.expiryOf(WALLET, DEVICE, AUTHORIZER) == EXPIRY);
    }

    function check_revoke(address sender, uint64 time, bytes32 device, address authorizer) public {
        vm.assume(time != 0);
        vm.warp(time);
        vm.prank(sender);
        (bool done,) = address(keys).call(abi.encodeCall(keys.revoke, (device, authorizer)));
        assert(done == (device != 0 || authorizer != address(0)));
        _stays(sender == WALLET);
        if (device != 0) assert(keys.standing(sender, device, AUTHORIZER) == Standing.Revoked);
        if (authorizer != address(0)) assert(keys.standing(sender, DEVICE, authorizer) == Standing.Revoked);
    }

    function check_revokeFor(address sender, uint64 time, uint256 deadline, bytes32 r, bytes32 s, uint8 v) public {
        vm.assume(time != 0);
        vm.warp(time);
        vm.prank(sender);
        (bool done,) = address(keys)
            .call(abi.encodeCall(keys.revokeFor, (WALLET, DEVICE, address(0), deadline, abi.encodePacked(r, s, v))));
        if (done) assert(time <= deadline && keys.standing(WALLET, DEVICE, AUTHORIZER) == Standing.Revoked);
        else assert(keys.deviceRevokedAt(WALLET, DEVICE) == 0);
        _stays(true);
    }

    function check_rotate(address sender, uint64 time, bytes32 old, uint64 expiry) public {
        vm.assume(time != 0);
        vm.warp(time);
        vm.prank(sender);
        (bool done,) = address(keys)
            .call(
                abi.encodeCall(keys.rotate, (old, address(0), Digests.Delegation(WALLET, DEVICE, AUTHORIZER, expiry)))
            );
        if (done) assert(sender == WALLET && old != DEVICE && old != 0 && time <= expiry);
        _stays(sender == WALLET);
    }

    function check_rotateFor(
        address sender,
        uint64 time,
        uint256 deadline,
        bool lost,
        uint64 expiry,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        vm.assume(time != 0);
        vm.warp(time);
        Digests.Delegation memory next = Digests.Delegation(WALLET, lost ? LOST : NEXT, AUTHORIZER, expiry);
        bytes memory revocation = abi.encodePacked(r, s, v);
        vm.prank(sender);
        (bool done,) = address(keys)
            .call(
                abi.encodeCall(
                    keys.rotateFor, (DEVICE, address(0), deadline, revocation, next, abi.encodePacked(s, r, v))
                )
            );
        if (done) {
            assert(!lost && time <= deadline && time <= expiry);
            assert(keys.standing(WALLET, DEVICE, AUTHORIZER) == Standing.Revoked);
            assert(expiry == 0 || keys.standing(WALLET, NEXT, AUTHORIZER) == Standing.Registered);
        } else {
            assert(keys.deviceRevokedAt(WALLET, DEVICE) == 0 && keys.expiryOf(WALLET, NEXT, AUTHORIZER) == 0);
        }
        _stays(true);
    }

    function check_setCap(address sender, address authorizer, address token, uint104 cap) public {
        vm.prank(sender);
        (bool done,) = address(keys).call(abi.encodeCall(keys.setCap, (authorizer, token, cap)));
        assert(done == (authorizer != address(0)));
        if (done) assert(keys.capOf(sender, authorizer, token).amount == cap);
        if (sender != WALLET) assert(!keys.capOf(WALLET, authorizer, token).declared);
        _stays(true);
    }

    function check_setCapFor(uint64 time, uint256 deadline, uint104 cap, bytes32 r, bytes32 s, uint8 v) public {
        vm.warp(time);
        bytes memory call =
            abi.encodeCall(keys.setCapFor, (WALLET, AUTHORIZER, address(1), cap, deadline, abi.encodePacked(r, s, v)));
        (bool done,) = address(keys).call(call);
        if (done) assert(time <= deadline && keys.capOf(WALLET, AUTHORIZER, address(1)).amount == cap);
        assert(keys.nonces(WALLET) == (done ? 1 : 0));
        _stays(true);
    }

    /// What is revoked stays so, since then; and where nobody spoke for the wallet, what is registered stays too.
    function _stays(bool spoke) private view {
        assert(keys.deviceRevokedAt(WALLET, LOST) == NOW && keys.authorizerRevokedAt(WALLET, STOLEN) == NOW);
        assert(keys.standing(WALLET, LOST, AUTHORIZER) == Standing.Revoked);
        assert(keys.standing(WALLET, DEVICE, STOLEN) == Standing.Revoked);
        assert(keys.expiryOf(WALLET, DEVICE, AUTHORIZER) >= EXPIRY);
        if (!spoke) {
            assert(keys.deviceRevokedAt(WALLET, DEVICE) == 0 && keys.authorizerRevokedAt(WALLET, AUTHORIZER) == 0);
        }
    }
}
