// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

import {Channels} from "../src/Channels.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "../src/types/Channel.sol";
import {vm} from "../test/support/Vm.sol";

/// A token whose permits and authorizations are good or not, whatever is signed.
contract Money is ERC20 {
    bool private _consents;

    constructor() ERC20("Money", "M") {}

    function consent(bool consents) external {
        _consents = consents;
    }

    function permit(address owner, address spender, uint256 value, uint256, uint8, bytes32, bytes32) external {
        require(_consents);
        _approve(owner, spender, value);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32,
        uint8,
        bytes32,
        bytes32
    ) external {
        require(_consents && to == msg.sender);
        _transfer(from, to, value);
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// One call of each entry point of `Channels`, with any amounts and signatures: what must hold after it held before. Run by
/// halmos (scripts/contracts --symbolic), not by forge; `bin/entries.mjs` sees to it that none is left out.
/// Before the call the channel is in any state that its slot can hold; the deposit, or what is claimable, is any amount of
/// 112 or 128 bits where the call reads it, and else zero. The sender is any, save for deposits by allowance, which are the
/// payer's. Fixed are the parties, who have authorizers, the token, and the lengths: a batch has one entry, a signature 65 bytes.
/// Recovery of a signature is any function.
contract ChannelsSymbolic {
    Channels private channels;
    Money private token;
    ChannelConfig private config;
    bytes32 private id;

    address private constant PAYER = address(0x1001);
    address private constant PAYEE = address(0x1002);
    address private constant OTHER = address(0x1003);
    uint256 private constant SUPPLY = type(uint120).max;

    /// The world before and after.
    struct Seen {
        ChannelState state;
        uint256 deposit;
        uint256 claimable;
        uint256 others;
        uint256 held;
    }

    function setUp() public {
        channels = new Channels();
        token = new Money();
        config =
            ChannelConfig(PAYER, address(0x1004), PAYEE, address(0x1005), address(token), 1 days, bytes32(uint256(7)));
        id = channels.channelId(config);
        token.mint(address(channels), SUPPLY);
    }

    // Steps that need a channel

    function check_topUp(uint256 slot, uint128 deposit, address sender, uint128 amount) public {
        Seen memory before = _any(slot, deposit, 0, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.topUp, (config, amount)));
        Seen memory found = _step(before, done);
        if (!done) return;
        assert(sender == PAYER && before.state.status == Status.Open && found.state.status == Status.Open);
        assert(found.state.reserved == before.state.reserved + amount);
    }

    function check_claim(uint256 slot, uint128 claimable, address sender, uint128 amount, bytes32 r, bytes32 s, uint8 v)
        public
    {
        Seen memory before = _any(slot, 0, claimable, sender);
        Claim[] memory claims = new Claim[](1);
        claims[0] = Claim(config, amount, abi.encodePacked(r, s, v));
        (bool done,) = address(channels).call(abi.encodeCall(channels.claim, (claims)));
        Seen memory found = _step(before, done);
        assert(found.state.status == before.state.status && found.state.closeAt == before.state.closeAt);
        assert(found.state.claimed == before.state.claimed || found.state.claimed == amount);
        assert(found.deposit == before.deposit && found.held == before.held);
    }

    function check_claimPacked(uint256 slot, uint128 claimable, address sender, uint104 amount, bytes32 r, bytes32 vs)
        public
    {
        Seen memory before = _any(slot, 0, claimable, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.claimPacked, (_packed(amount, r, vs))));
        Seen memory found = _step(before, done);
        assert(found.state.status == before.state.status && found.state.closeAt == before.state.closeAt);
        assert(found.state.claimed == before.state.claimed || found.state.claimed == amount);
        assert(found.held == before.held);
    }

    function check_claimPackedAndSweep(
        uint256 slot,
        uint112 claimable,
        address sender,
        uint104 amount,
        bytes32 r,
        bytes32 vs
    ) public {
        Seen memory before = _any(slot, 0, claimable, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.claimPackedAndSweep, (_packed(amount, r, vs))));
        ChannelState memory state = channels.channel(id);
        if (!done) return _same(before);
        uint256 credited = state.claimed - before.state.claimed;
        assert(channels.claimableOf(PAYEE, address(token)) == 0);
        assert(token.balanceOf(PAYEE) == before.claimable + credited);
        assert(token.balanceOf(address(channels)) == before.held - before.claimable - credited);
        assert(state.claimed <= state.reserved && state.status == before.state.status);
    }

    function check_closeCooperatively(
        uint256 slot,
        uint128 deposit,
        uint128 claimable,
        address sender,
        uint128 amount,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        Seen memory before = _any(slot, deposit, claimable, sender);
        Claim memory last = Claim(config, amount, abi.encodePacked(r, s, v));
        (bool done,) =
            address(channels).call(abi.encodeCall(channels.closeCooperatively, (last, abi.encodePacked(s, r, v))));
        Seen memory found = _step(before, done);
        if (!done) return;
        assert(before.state.status == Status.Open || before.state.status == Status.Closing);
        assert(found.state.status == Status.Closed && found.state.claimed >= amount);
    }

    function check_startClose(uint256 slot, address sender, uint32 time) public {
        vm.warp(time);
        Seen memory before = _any(slot, 0, 0, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.startClose, (config)));
        Seen memory found = _step(before, done);
        if (!done) return;
        assert(sender == PAYER && before.state.status == Status.Open);
        assert(found.state.status == Status.Closing && found.state.closeAt == uint256(time) + 1 days);
        assert(found.state.claimed == before.state.claimed);
    }

    /// C6: whoever asks, once the time has come, nothing keeps the close from being finished; and nothing before it has.
    function check_finishClose(uint256 slot, uint128 deposit, address sender, uint32 time) public {
        vm.warp(time);
        Seen memory before = _any(slot, deposit, 0, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.finishClose, (config)));
        Seen memory found = _step(before, done);
        assert(done == (before.state.status == Status.Closing && time >= before.state.closeAt));
        if (!done) return;
        assert(found.state.status == Status.Closed && found.state.claimed == before.state.claimed);
    }

    // Steps that make one, or need none

    function check_open(uint256 slot, uint128 deposit, address sender, uint128 amount) public {
        Seen memory before = _any(slot, deposit, 0, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.open, (config, amount)));
        _opened(before, done, sender, amount);
    }

    function check_openBatch(uint256 slot, uint128 deposit, address sender, uint128 amount) public {
        Seen memory before = _any(slot, deposit, 0, sender);
        ChannelConfig[] memory configs = new ChannelConfig[](1);
        uint128[] memory amounts = new uint128[](1);
        (configs[0], amounts[0]) = (config, amount);
        (bool done,) = address(channels).call(abi.encodeCall(channels.openBatch, (configs, amounts)));
        _opened(before, done, sender, amount);
    }

    /// A batch of one call does what that call does.
    function check_multicall(uint256 slot, uint128 deposit, address sender, uint128 amount) public {
        Seen memory before = _any(slot, deposit, 0, sender);
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(channels.open, (config, amount));
        (bool done,) = address(channels).call(abi.encodeCall(channels.multicall, (calls)));
        _opened(before, done, sender, amount);
    }

    function check_deposit(uint256 slot, uint112 deposit, uint112 amount) public {
        Seen memory before = _any(slot, deposit, 0, PAYER);
        _approved(amount);
        vm.prank(PAYER);
        (bool done,) = address(channels).call(abi.encodeCall(channels.deposit, (address(token), amount)));
        _deposited(before, done, amount);
    }

    function check_depositFor(uint256 slot, uint112 deposit, uint112 amount) public {
        Seen memory before = _any(slot, deposit, 0, PAYER);
        _approved(amount);
        vm.prank(PAYER);
        (bool done,) = address(channels).call(abi.encodeCall(channels.depositFor, (OTHER, address(token), amount)));
        assert(done == (amount != 0));
        assert(channels.depositOf(PAYER, address(token)) == before.deposit);
        assert(channels.depositOf(OTHER, address(token)) == before.others + amount);
    }

    function check_depositWithPermit(
        uint256 slot,
        uint112 deposit,
        uint112 amount,
        bool approved,
        bool consents,
        uint256 deadline,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        Seen memory before = _any(slot, deposit, 0, PAYER);
        // Takes the prank that `_any` left.
        token.approve(address(channels), approved ? type(uint256).max : 0);
        token.mint(PAYER, amount);
        token.consent(consents);
        vm.prank(PAYER);
        (bool done,) = address(channels)
            .call(abi.encodeCall(channels.depositWithPermit, (address(token), amount, deadline, v, r, s)));
        assert(done == (amount != 0 && (approved || consents)));
        if (!done) return _same(before);
        _deposited(before, done, amount);
    }

    /// Whoever sends it, and only if the token says yes.
    function check_depositWithAuthorization(
        uint256 slot,
        uint112 deposit,
        uint112 amount,
        address sender,
        bool consents,
        bytes32 nonce,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        Seen memory before = _any(slot, deposit, 0, PAYER);
        _approved(0);
        token.mint(PAYER, amount);
        token.consent(consents);
        vm.assume(sender != address(channels) && sender != address(token));
        vm.prank(sender);
        (bool done,) = address(channels)
            .call(
                abi.encodeCall(
                    channels.depositWithAuthorization,
                    (PAYER, address(token), amount, 0, type(uint256).max, nonce, abi.encodePacked(r, s, v))
                )
            );
        assert(done == (amount != 0 && consents));
        if (!done) return _same(before);
        _deposited(before, done, amount);
    }

    function check_withdraw(uint256 slot, uint112 deposit, address sender, uint128 amount) public {
        Seen memory before = _any(slot, deposit, 0, sender);
        (bool done,) = address(channels).call(abi.encodeCall(channels.withdraw, (address(token), amount, OTHER)));
        if (!done) return _same(before);
        uint256 left = channels.depositOf(PAYER, address(token));
        assert(left == before.deposit - (sender == PAYER ? amount : 0));
        assert(token.balanceOf(OTHER) == amount && token.balanceOf(address(channels)) == before.held - amount);
        assert(sender == PAYER || sender == OTHER);
        assert(amount <= (sender == PAYER ? before.deposit : before.others));
    }

    function check_sweep(uint256 slot, uint112 claimable, address sender) public {
        Seen memory before = _any(slot, 0, claimable, sender);
        channels.sweep(PAYEE, address(token));
        assert(token.balanceOf(PAYEE) == claimable && channels.claimableOf(PAYEE, address(token)) == 0);
        assert(channels.depositOf(OTHER, address(token)) == before.others);
    }

    // What holds in every step

    /// Any state that the contract can be in: what the slot means is kept, nothing more is assumed. The next call is the
    /// sender's.
    function _any(uint256 slot, uint256 deposit, uint256 claimable, address sender) private returns (Seen memory seen) {
        uint256 status = slot >> 248;
        uint256 reserved = uint104(slot);
        uint256 claimed = uint104(slot >> 104);
        uint256 closeAt = uint40(slot >> 208);
        vm.assume(status <= 3 && claimed <= reserved);
        vm.assume(status == 0 ? slot == 0 : reserved != 0);
        vm.assume(status != 1 || closeAt == 0);
        vm.assume(sender != address(channels) && sender != address(token));
        vm.store(address(channels), id, bytes32(slot));
        vm.store(address(channels), keccak256(abi.encode(PAYER, token)), bytes32(deposit));
        vm.store(
            address(channels),
            keccak256(abi.encode(PAYEE, uint256(uint160(address(token))) | 1 << 160)),
            bytes32(claimable)
        );
        vm.store(address(channels), keccak256(abi.encode(OTHER, token)), bytes32(uint256(5)));
        seen = _seen();
        vm.prank(sender);
    }

    function _seen() private view returns (Seen memory) {
        return Seen({
            state: channels.channel(id),
            deposit: channels.depositOf(PAYER, address(token)),
            claimable: channels.claimableOf(PAYEE, address(token)),
            others: channels.depositOf(OTHER, address(token)),
            held: token.balanceOf(address(channels))
        });
    }

    /// C3, C4 and conservation: no step that moves no token makes or loses money, credits beyond what is reserved or after
    /// the close, takes anything back from the payee, opens what is closed, or touches anybody else's.
    function _step(Seen memory before, bool done) private view returns (Seen memory found) {
        found = _seen();
        if (!done) {
            _same(before);
            return found;
        }
        assert(found.state.claimed <= found.state.reserved);
        assert(found.state.claimed >= before.state.claimed && found.state.reserved >= before.state.reserved);
        assert(found.state.status >= before.state.status);
        assert(found.claimable - before.claimable == found.state.claimed - before.state.claimed);
        if (before.state.status == Status.Closed) {
            assert(found.state.claimed == before.state.claimed && found.deposit == before.deposit);
        }
        assert(found.deposit + found.claimable + _inside(found) == before.deposit + before.claimable + _inside(before));
        assert(found.others == before.others && found.held == before.held);
    }

    function _opened(Seen memory before, bool done, address sender, uint128 amount) private view {
        Seen memory found = _step(before, done);
        bool may = sender == PAYER && before.state.status == Status.None && amount != 0 && amount <= type(uint104).max
            && amount <= before.deposit;
        assert(done == may);
        if (!done) return;
        assert(found.state.status == Status.Open && found.state.reserved == amount && found.state.claimed == 0);
    }

    function _deposited(Seen memory before, bool done, uint256 amount) private view {
        assert(done == (amount != 0));
        assert(channels.depositOf(PAYER, address(token)) == before.deposit + amount);
        assert(token.balanceOf(address(channels)) == before.held + amount);
        assert(channels.depositOf(OTHER, address(token)) == before.others);
    }

    function _approved(uint256 amount) private {
        // Takes the prank that `_any` left.
        token.approve(address(channels), type(uint256).max);
        token.mint(PAYER, amount);
    }

    function _same(Seen memory before) private view {
        assert(keccak256(abi.encode(_seen())) == keccak256(abi.encode(before)));
    }

    function _inside(Seen memory seen) private pure returns (uint256) {
        if (seen.state.status == Status.None || seen.state.status == Status.Closed) return 0;
        return seen.state.reserved - seen.state.claimed;
    }

    function _packed(uint104 amount, bytes32 r, bytes32 vs) private view returns (bytes memory) {
        return bytes.concat(
            abi.encodePacked(config.token, config.payee, config.payeeAuthorizer, config.withdrawDelay),
            abi.encodePacked(config.payer, config.payerAuthorizer, uint64(uint256(config.salt)), amount, r, vs)
        );
    }
}
