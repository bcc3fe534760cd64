// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {vm} from "../support/Vm.sol";

/// What worlds have in common, for `bin/campaign.mjs`: a clock of their own, for forge winds its back between calls; how
/// often each thing really happened on the contracts; and the most gas that a transaction of each kind took.
abstract contract Tally {
    /// What must have happened in a campaign. Those with a dot are functions of contracts: `Channels.claim`.
    string[] public names;
    mapping(string name => uint256) public successes;

    /// What is measured (C11), and the gas that it may take.
    string[] public measured;
    mapping(string what => uint256) public gasBound;
    mapping(string what => uint256) public gasMost;

    uint256 internal _now = 1_800_000_000;

    /// For what brings its own counts: the contracts see this world's time.
    modifier timed() {
        vm.warp(_now);
        _;
    }

    /// For what happens whatever the arguments.
    modifier counted(string memory name) {
        vm.warp(_now);
        _;
        _count(name);
    }

    function tally() external view returns (string memory line) {
        for (uint256 i = 0; i < names.length; ++i) {
            string memory name = names[i];
            line = string.concat(line, _line(name, successes[name]));
        }
        for (uint256 i = 0; i < measured.length; ++i) {
            string memory what = measured[i];
            line = string.concat(line, "gas:", _line(what, gasMost[what]));
        }
    }

    /// C11: whatever came before, none took more than it may.
    function requireGasIsBounded() external view {
        for (uint256 i = 0; i < measured.length; ++i) {
            string memory what = measured[i];
            vm.assertLe(gasMost[what], gasBound[what], _line(what, gasMost[what]));
        }
    }

    /// Names, with a space between them.
    function _expect(string memory list) internal {
        bytes memory all = bytes(list);
        for (uint256 start = 0; start < all.length;) {
            uint256 end = start;
            while (end < all.length && all[end] != " ") ++end;
            bytes memory name = new bytes(end - start);
            for (uint256 i = start; i < end; ++i) {
                name[i - start] = all[i];
            }
            names.push(string(name));
            start = end + 1;
        }
    }

    function _count(string memory name) internal {
        ++successes[name];
    }

    function _allow(string memory what, uint256 gas) internal {
        measured.push(what);
        gasBound[what] = gas;
    }

    /// Takes down the last call. Campaigns that measure run isolated (`isolate = true`), where each call from a world is a
    /// transaction of its own: base, calldata, execution from cold storage, less refunds. `count`: how many share it.
    function _measure(string memory what, uint256 count) internal {
        uint256 each = (uint256(vm.lastCallGas().gasTotalUsed) + count - 1) / count;
        if (each > gasMost[what]) gasMost[what] = each;
    }

    function _measure(string memory what) internal {
        _measure(what, 1);
    }

    function _pass(uint256 time) internal {
        _now += time;
        vm.warp(_now);
    }

    /// Calls `target`, which must refuse for the reason that is named, and counts that.
    function _refused(string memory name, address target, address sender, bytes memory data, bytes4 reason) internal {
        vm.prank(sender);
        (bool done, bytes memory answer) = target.call(data);
        vm.assertFalse(done, string.concat("not refused: ", name));
        vm.assertEq(bytes32(bytes4(answer)), bytes32(reason), string.concat("refused for something else: ", name));
        _count(name);
    }

    function _line(string memory name, uint256 value) private pure returns (string memory) {
        return string.concat(name, "=", vm.toString(value), " ");
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}

/// One world and the functions that are called on it.
abstract contract Campaign {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function _target() internal view virtual returns (address world, bytes4[] memory selectors);

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        (targets[0],) = _target();
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        (targets[0].addr, targets[0].selectors) = _target();
    }

    function afterInvariant() public virtual {
        (address world,) = _target();
        vm.writeLine("cache/campaign", Tally(world).tally());
    }
}
