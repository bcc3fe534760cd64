// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../../src/Channels.sol";
import {TestToken} from "../../src/TestToken.sol";
import {IChannels} from "../../src/interfaces/IChannels.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "../../src/types/Channel.sol";
import {GasBounds} from "../support/GasBounds.sol";
import {FeeToken} from "../support/Tokens.sol";
import {Wallet} from "../support/Wallet.sol";
import {bound, vm} from "../support/Vm.sol";
import {Tally} from "./Tally.sol";

/// Several payers, payees and tokens, everything they may do to one contract, and a ledger of what must come of it.
/// Every function here succeeds whatever its arguments: it makes first what it needs. What is counted happened on the
/// contract, and brought something. The ledger is kept by the rules of the protocol, never by asking the contract.
contract World is Tally {
    /// Somebody with a key, and maybe a wallet that the key owns (EIP-1271).
    struct Party {
        address account;
        uint256 key;
        bool isWallet;
        uint256 authorizerKey; // zero: signs for itself
    }

    /// What the ledger knows of a channel.
    struct Entry {
        ChannelConfig config;
        bytes32 id;
        uint256 payer;
        uint256 payee;
        uint256 put; // all that went in
        uint256 newest; // the highest voucher ever signed
        uint256 credited;
        uint256 refunded;
        uint256 refunds; // how many times
        uint256 creditedAtClose;
        uint40 closeAt;
        Status status;
    }

    Channels public channels = new Channels();
    TestToken[2] public tokens;
    Party[3] public payers;
    Party[3] public payees;

    Entry[] internal _entries;
    mapping(address payer => mapping(address token => uint256)) public deposits;
    mapping(address payee => mapping(address token => uint256)) public claimable;
    mapping(address token => uint256) public paidIn;
    mapping(address token => uint256) public paidOut;

    uint256 private _credited; // in all
    uint64 private _salts;
    uint256 private _nonces;

    uint128 private constant MOST = 1e12;
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    bytes32 private constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    constructor() {
        _expect(
            "Channels.deposit Channels.depositFor Channels.depositWithPermit "
            "Channels.depositWithAuthorization Channels.withdraw Channels.open Channels.openBatch "
            "Channels.topUp Channels.claim Channels.claimPacked Channels.claimPackedAndSweep "
            "Channels.sweep Channels.closeCooperatively Channels.startClose Channels.finishClose "
            "Channels.multicall claimOfNothingNew claimAfterClose claimWhileClosing sweepOfNothing "
            "pass cheatAboveReserved cheatSignedByPayee cheatDepositOfAnother cheatSameChannelAgain "
            "cheatCloseWithoutPayee cheatCloseTooEarly cheatCloseByPayee cheatUnknownChannel "
            "cheatVoucherOfAnotherDomain"
        );
        tokens[0] = new TestToken();
        tokens[1] = new FeeToken();
        payers[0] = _party("payer with authorizer", false, true);
        payers[1] = _party("payer alone", false, false);
        payers[2] = _party("payer with wallet", true, false);
        payees[0] = _party("payee with authorizer", false, true);
        payees[1] = _party("payee alone", false, false);
        payees[2] = _party("payee with wallet", true, false);
        _allow("claim, each", GasBounds.CLAIM);
        _allow("claimPacked, each", GasBounds.CLAIM_PACKED);
        _allow("claimPackedAndSweep, each", GasBounds.CLAIM_PACKED_AND_SWEEP);
        _allow("closeCooperatively", GasBounds.CLOSE_COOPERATIVELY);
        _allow("startClose", GasBounds.START_CLOSE);
        _allow("finishClose", GasBounds.FINISH_CLOSE);
        for (uint256 p = 0; p < 3; ++p) {
            for (uint256 t = 0; t < 2; ++t) {
                _as(
                    payers[p],
                    address(tokens[t]),
                    abi.encodeCall(tokens[t].approve, (address(channels), type(uint256).max))
                );
            }
        }
    }

    // What people do

    function deposit(uint256 payer, uint256 token, uint128 amount) external counted("Channels.deposit") {
        _deposit(payer % 3, tokens[token % 2], amount);
    }

    function depositFor(uint256 payer, uint256 token, uint128 amount, uint256 sender)
        external
        counted("Channels.depositFor")
    {
        TestToken asset = tokens[token % 2];
        Party memory from = payers[sender % 3];
        amount = uint128(bound(amount, 2, MOST));
        asset.mint(from.account, amount);
        address to = payers[payer % 3].account;
        _as(from, address(channels), abi.encodeCall(IChannels.depositFor, (to, address(asset), amount)));
        _received(to, asset, amount);
    }

    function depositWithPermit(uint256 payer, uint256 token, uint128 amount, bool sentAhead)
        external
        counted("Channels.depositWithPermit")
    {
        Party memory from = payers[payer % 2];
        TestToken asset = tokens[token % 2];
        amount = uint128(bound(amount, 2, MOST));
        asset.mint(from.account, amount);
        _as(from, address(asset), abi.encodeCall(asset.approve, (address(channels), 0)));
        bytes32 hash = keccak256(
            abi.encode(PERMIT, from.account, channels, amount, asset.nonces(from.account), type(uint256).max)
        );
        (uint8 v, bytes32 r, bytes32 s) = _sign(asset, from.key, hash);
        if (sentAhead) asset.permit(from.account, address(channels), amount, type(uint256).max, v, r, s);
        _as(
            from,
            address(channels),
            abi.encodeCall(IChannels.depositWithPermit, (address(asset), amount, type(uint256).max, v, r, s))
        );
        _received(from.account, asset, amount);
        _as(from, address(asset), abi.encodeCall(asset.approve, (address(channels), type(uint256).max)));
    }

    function depositWithAuthorization(uint256 payer, uint256 token, uint128 amount, address sender)
        external
        counted("Channels.depositWithAuthorization")
    {
        Party memory from = payers[payer % 2];
        TestToken asset = tokens[token % 2];
        amount = uint128(bound(amount, 2, MOST));
        asset.mint(from.account, amount);
        bytes32 nonce = keccak256(abi.encode(++_nonces));
        bytes32 hash = keccak256(abi.encode(RECEIVE, from.account, channels, amount, 0, type(uint256).max, nonce));
        (uint8 v, bytes32 r, bytes32 s) = _sign(asset, from.key, hash);
        vm.prank(sender);
        channels.depositWithAuthorization(
            from.account, address(asset), amount, 0, type(uint256).max, nonce, abi.encodePacked(r, s, v)
        );
        _received(from.account, asset, amount);
    }

    function withdraw(uint256 payer, uint256 token, uint128 amount, address to) external counted("Channels.withdraw") {
        payer %= 3;
        TestToken asset = tokens[token % 2];
        if (to == address(0) || to == address(channels)) to = payers[payer].account;
        _need(payer, asset, 1);
        address from = payers[payer].account;
        amount = uint128(bound(amount, 1, deposits[from][address(asset)]));
        _as(payers[payer], address(channels), abi.encodeCall(IChannels.withdraw, (address(asset), amount, to)));
        deposits[from][address(asset)] -= amount;
        paidOut[address(asset)] += amount;
    }

    function open(uint256 payer, uint256 payee, uint256 token, uint128 amount, uint40 delay)
        external
        counted("Channels.open")
    {
        _open(payer % 3, payee % 3, tokens[token % 2], amount, delay);
    }

    function openBatch(uint256 payer, uint256 payee, uint256 token, uint128 amount, uint8 count) external timed {
        _openBatch(payer % 3, payee % 3, tokens[token % 2], uint128(bound(amount, 1, MOST)), bound(count, 1, 4));
        _count("Channels.openBatch");
    }

    function topUp(uint256 which, uint128 amount) external counted("Channels.topUp") {
        Entry storage entry = _entries[_withStatus(which, Status.Open)];
        TestToken asset = TestToken(entry.config.token);
        amount = uint128(bound(amount, 1, MOST));
        _need(entry.payer, asset, amount);
        _as(payers[entry.payer], address(channels), abi.encodeCall(IChannels.topUp, (entry.config, amount)));
        deposits[entry.config.payer][address(asset)] -= amount;
        entry.put += amount;
    }

    /// One to four channels of any kind and state, closed ones too, with new, old and doubled vouchers.
    function claim(uint256 which, uint128[4] calldata amounts, uint8 count, address sender) external timed {
        uint256 size = bound(count, 1, 4);
        Claim[] memory claims = new Claim[](size);
        uint256 before = _credited;
        if (_entries.length == 0) _openAny();
        for (uint256 i = 0; i < size; ++i) {
            Entry storage entry = _entries[uint256(keccak256(abi.encode(which, i))) % _entries.length];
            claims[i] = _voucher(entry, amounts[i]);
            _credit(entry, claims[i].amount);
        }
        vm.prank(sender);
        channels.claim(claims);
        _measure("claim, each", size);
        _count(_credited == before ? "claimOfNothingNew" : "Channels.claim");
    }

    function claimPacked(uint256 which, uint128[4] calldata amounts, address sender) external timed {
        uint256 before = _credited;
        (bytes memory data,,) = _packed(which, amounts);
        vm.prank(sender);
        channels.claimPacked(data);
        _measure("claimPacked, each", (data.length - 65) / 125);
        _count(_credited == before ? "claimOfNothingNew" : "Channels.claimPacked");
    }

    function claimPackedAndSweep(uint256 which, uint128[4] calldata amounts, address sender) external timed {
        uint256 before = _credited;
        (bytes memory data, address payee, address token) = _packed(which, amounts);
        vm.prank(sender);
        channels.claimPackedAndSweep(data);
        _measure("claimPackedAndSweep, each", (data.length - 65) / 125);
        _count(_credited == before ? "claimOfNothingNew" : "Channels.claimPackedAndSweep");
        _swept(payee, token);
    }

    function sweep(uint256 payee, uint256 token, address sender) external timed {
        address to = payees[payee % 3].account;
        address asset = address(tokens[token % 2]);
        uint256 expected = claimable[to][asset];
        vm.prank(sender);
        vm.assertEq(channels.sweep(to, asset), expected, "swept");
        _count(expected == 0 ? "sweepOfNothing" : "Channels.sweep");
        _swept(to, asset);
    }

    /// A claim and the payout of all that its payee has, in one transaction.
    function multicall(uint256 which, uint128 amount, address sender) external counted("Channels.multicall") {
        Entry storage entry = _entries[_alive(which)];
        (address payee, address token) = (entry.config.payee, entry.config.token);
        Claim memory voucher = _voucher(entry, amount);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IChannels.claim, (_one(voucher)));
        calls[1] = abi.encodeCall(IChannels.sweep, (payee, token));
        vm.prank(sender);
        channels.multicall(calls);
        _credit(entry, voucher.amount);
        _swept(payee, token);
    }

    function closeCooperatively(uint256 which, uint128 amount, bool sentByPayee, address sender)
        external
        counted("Channels.closeCooperatively")
    {
        Entry storage entry = _entries[_alive(which)];
        Claim memory last = _voucher(entry, amount);
        if (last.amount <= entry.credited) last.signature = "";
        Party memory payee = payees[entry.payee];
        uint256 key = payee.authorizerKey == 0 ? payee.key : payee.authorizerKey;
        bytes memory agreed =
            sentByPayee ? bytes("") : _sign(key, channels.cooperativeCloseDigest(entry.id, last.amount));
        vm.prank(sentByPayee ? entry.config.payee : sender);
        channels.closeCooperatively(last, agreed);
        _measure("closeCooperatively");
        _credit(entry, last.amount);
        _close(entry);
    }

    function startClose(uint256 which) external counted("Channels.startClose") {
        _startClose(_withStatus(which, Status.Open));
    }

    function finishClose(uint256 which, address sender) external counted("Channels.finishClose") {
        uint256 i = _withStatus(which, Status.Closing);
        if (_now < _entries[i].closeAt) _pass(_entries[i].closeAt - _now);
        vm.prank(sender);
        channels.finishClose(_entries[i].config);
        _measure("finishClose");
        _close(_entries[i]);
    }

    function pass(uint256 time) external counted("pass") {
        _pass(bound(time, 1, 3 days));
    }

    /// What must be refused, always.
    function cheat(uint256 how, uint256 which, uint128 amount) external timed {
        how %= 9;
        uint256 i = _alive(which);
        bool isSpent = _entries[i].credited == _entries[i].put;
        bool isDue = _entries[i].status == Status.Closing && _now >= _entries[i].closeAt;
        if ((isSpent && (how == 1 || how == 8)) || (isDue && how == 5)) i = _openAny();
        Entry storage entry = _entries[i];
        ChannelConfig memory config = entry.config;
        Party memory payer = payers[entry.payer];
        uint128 put = uint128(entry.put);
        if (how == 0) {
            amount = uint128(bound(amount, put + 1, type(uint104).max));
            Claim memory more = _signed(entry, amount, _payerKey(payer));
            _refusedClaim("cheatAboveReserved", more, IChannels.AmountAboveReserved.selector);
        } else if (how == 1) {
            Claim memory forged = _signed(entry, put, payees[entry.payee].key);
            _refusedClaim("cheatSignedByPayee", forged, IChannels.VoucherSignatureInvalid.selector);
        } else if (how == 2) {
            uint128 more = uint128(deposits[config.payer][config.token] + 1);
            bytes memory call = abi.encodeCall(IChannels.withdraw, (config.token, more, config.payer));
            _refused("cheatDepositOfAnother", config.payer, call, IChannels.DepositTooSmall.selector);
        } else if (how == 3) {
            _need(entry.payer, TestToken(config.token), 1);
            bytes memory call = abi.encodeCall(IChannels.open, (config, 1));
            _refused("cheatSameChannelAgain", config.payer, call, IChannels.ChannelExists.selector);
        } else if (how == 4) {
            uint128 credited = uint128(entry.credited);
            bytes memory agreed = _sign(payer.key, channels.cooperativeCloseDigest(entry.id, credited));
            bytes memory call = abi.encodeCall(IChannels.closeCooperatively, (Claim(config, credited, ""), agreed));
            _refused("cheatCloseWithoutPayee", config.payer, call, IChannels.CloseSignatureInvalid.selector);
        } else if (how == 5) {
            bytes4 reason = entry.status == Status.Closing
                ? IChannels.CloseTooEarly.selector
                : IChannels.ChannelNotClosing.selector;
            _refused("cheatCloseTooEarly", config.payer, abi.encodeCall(IChannels.finishClose, (config)), reason);
        } else if (how == 6) {
            bytes memory call = abi.encodeCall(IChannels.startClose, (config));
            _refused("cheatCloseByPayee", config.payee, call, IChannels.SenderNotPayer.selector);
        } else if (how == 7) {
            config.salt = bytes32(type(uint256).max);
            _refusedClaim("cheatUnknownChannel", Claim(config, 0, ""), IChannels.ChannelUnknown.selector);
        } else {
            vm.chainId(777);
            bytes32 foreign = channels.voucherDigest(entry.id, put);
            vm.chainId(31337);
            Claim memory replay = Claim(config, put, _sign(_payerKey(payer), foreign));
            _refusedClaim("cheatVoucherOfAnotherDomain", replay, IChannels.VoucherSignatureInvalid.selector);
        }
    }

    /// C6: everybody goes, and nobody has to agree.
    function everybodyLeaves() external {
        vm.warp(_now);
        for (uint256 i = 0; i < _entries.length; ++i) {
            if (_entries[i].status == Status.Open) _startClose(i);
        }
        _pass(30 days);
        for (uint256 i = 0; i < _entries.length; ++i) {
            if (_entries[i].status != Status.Closing) continue;
            channels.finishClose(_entries[i].config);
            _close(_entries[i]);
        }
        for (uint256 t = 0; t < 2; ++t) {
            address token = address(tokens[t]);
            for (uint256 p = 0; p < 3; ++p) {
                channels.sweep(payees[p].account, token);
                _swept(payees[p].account, token);
                address payer = payers[p].account;
                uint256 left = deposits[payer][token];
                if (left == 0) continue;
                _as(payers[p], address(channels), abi.encodeCall(IChannels.withdraw, (token, uint128(left), payer)));
                deposits[payer][token] = 0;
                paidOut[token] += left;
            }
        }
    }

    // What the invariants ask

    function entries() external view returns (Entry[] memory) {
        return _entries;
    }

    /// All that deposits, channels and unswept earnings come to.
    function owed(address token) external view returns (uint256 sum) {
        for (uint256 p = 0; p < 3; ++p) {
            sum += deposits[payers[p].account][token] + claimable[payees[p].account][token];
        }
        for (uint256 i = 0; i < _entries.length; ++i) {
            Entry storage entry = _entries[i];
            if (entry.config.token == token) sum += entry.put - entry.credited - entry.refunded;
        }
    }

    // The ledger

    function _received(address payer, TestToken asset, uint256 amount) private {
        if (address(asset) == address(tokens[1])) amount -= (amount + 99) / 100;
        deposits[payer][address(asset)] += amount;
        paidIn[address(asset)] += amount;
    }

    function _opened(ChannelConfig memory config, uint256 payer, uint256 payee, uint256 amount) private {
        deposits[config.payer][config.token] -= amount;
        Entry storage entry = _entries.push();
        entry.config = config;
        entry.id = channels.channelId(config);
        (entry.payer, entry.payee) = (payer, payee);
        (entry.put, entry.status) = (amount, Status.Open);
    }

    function _credit(Entry storage entry, uint256 amount) private {
        if (amount <= entry.credited) return;
        if (entry.status == Status.Closed) return _count("claimAfterClose");
        if (entry.status == Status.Closing) _count("claimWhileClosing");
        uint256 more = amount - entry.credited;
        claimable[entry.config.payee][entry.config.token] += more;
        entry.credited = amount;
        _credited += more;
    }

    function _close(Entry storage entry) private {
        entry.refunded += entry.put - entry.credited;
        ++entry.refunds;
        entry.creditedAtClose = entry.credited;
        deposits[entry.config.payer][entry.config.token] += entry.put - entry.credited;
        entry.status = Status.Closed;
    }

    function _swept(address payee, address token) private {
        paidOut[token] += claimable[payee][token];
        claimable[payee][token] = 0;
    }

    // How it is done

    function _party(string memory name, bool isWallet, bool hasAuthorizer) private returns (Party memory party) {
        party.key = uint256(keccak256(bytes(name)));
        party.isWallet = isWallet;
        party.account = isWallet ? address(new Wallet(vm.addr(party.key))) : vm.addr(party.key);
        if (hasAuthorizer) party.authorizerKey = uint256(keccak256(abi.encode(name)));
    }

    function _as(Party memory party, address target, bytes memory data) private {
        if (party.isWallet) {
            Wallet(party.account).run(target, data);
        } else {
            vm.prank(party.account);
            (bool done, bytes memory answer) = target.call(data);
            if (!done) {
                assembly ("memory-safe") {
                    revert(add(answer, 0x20), mload(answer))
                }
            }
        }
    }

    function _refused(string memory name, address sender, bytes memory data, bytes4 reason) private {
        _refused(name, address(channels), sender, data, reason);
    }

    function _refusedClaim(string memory name, Claim memory entry, bytes4 reason) private {
        _refused(name, entry.config.payee, abi.encodeCall(IChannels.claim, (_one(entry))), reason);
    }

    function _deposit(uint256 payer, TestToken asset, uint128 amount) private {
        amount = uint128(bound(amount, 2, MOST));
        asset.mint(payers[payer].account, amount);
        _as(payers[payer], address(channels), abi.encodeCall(IChannels.deposit, (address(asset), amount)));
        _received(payers[payer].account, asset, amount);
    }

    /// Makes sure that the payer has `amount` in its deposit.
    function _need(uint256 payer, TestToken asset, uint256 amount) private {
        while (deposits[payers[payer].account][address(asset)] < amount) {
            _deposit(payer, asset, MOST);
        }
    }

    function _config(uint256 payer, uint256 payee, TestToken asset, uint40 delay)
        private
        returns (ChannelConfig memory)
    {
        uint256 payerKey = payers[payer].authorizerKey;
        uint256 payeeKey = payees[payee].authorizerKey;
        return ChannelConfig({
            payer: payers[payer].account,
            payerAuthorizer: payerKey == 0 ? address(0) : vm.addr(payerKey),
            payee: payees[payee].account,
            payeeAuthorizer: payeeKey == 0 ? address(0) : vm.addr(payeeKey),
            token: address(asset),
            withdrawDelay: delay,
            salt: bytes32(uint256(++_salts))
        });
    }

    function _open(uint256 payer, uint256 payee, TestToken asset, uint128 amount, uint40 delay)
        private
        returns (uint256)
    {
        amount = uint128(bound(amount, 1, MOST));
        _need(payer, asset, amount);
        // Half of the channels share one delay, so that packed claims have more than one entry.
        delay = delay % 2 == 0 ? 1 hours : uint40(bound(delay, 15 minutes, 30 days));
        ChannelConfig memory config = _config(payer, payee, asset, delay);
        _as(payers[payer], address(channels), abi.encodeCall(IChannels.open, (config, amount)));
        _opened(config, payer, payee, amount);
        return _entries.length - 1;
    }

    function _openBatch(uint256 payer, uint256 payee, TestToken asset, uint128 amount, uint256 size) private {
        _need(payer, asset, amount * size);
        ChannelConfig[] memory configs = new ChannelConfig[](size);
        uint128[] memory amounts = new uint128[](size);
        for (uint256 i = 0; i < size; ++i) {
            configs[i] = _config(payer, (payee + i) % 3, asset, 1 hours);
            amounts[i] = amount;
        }
        _as(payers[payer], address(channels), abi.encodeCall(IChannels.openBatch, (configs, amounts)));
        for (uint256 i = 0; i < size; ++i) {
            _opened(configs[i], payer, (payee + i) % 3, amount);
        }
    }

    function _openAny() private returns (uint256) {
        uint256 seed = uint256(keccak256(abi.encode(_entries.length, _salts)));
        return _open(seed % 3, (seed >> 8) % 3, tokens[(seed >> 16) % 2], uint128(seed >> 24), 2);
    }

    function _startClose(uint256 i) private {
        Entry storage entry = _entries[i];
        _as(payers[entry.payer], address(channels), abi.encodeCall(IChannels.startClose, (entry.config)));
        if (!payers[entry.payer].isWallet) _measure("startClose");
        (entry.status, entry.closeAt) = (Status.Closing, uint40(_now) + entry.config.withdrawDelay);
    }

    /// The first channel from `which` on that is in `status`; one is made if none is.
    function _withStatus(uint256 which, Status status) private returns (uint256 i) {
        bool found;
        (found, i) = _find(which, status);
        if (found) return i;
        if (status == Status.Closing) (found, i) = _find(which, Status.Open);
        if (!found) i = _openAny();
        if (status == Status.Closing) _startClose(i);
    }

    function _find(uint256 which, Status status) private view returns (bool, uint256 i) {
        for (uint256 k = 0; k < _entries.length; ++k) {
            i = (which % _entries.length + k) % _entries.length;
            if (_entries[i].status == status) return (true, i);
        }
        return (false, 0);
    }

    /// The first channel from `which` on that is not closed; one is made if none is.
    function _alive(uint256 which) private returns (uint256) {
        for (uint256 k = 0; k < _entries.length; ++k) {
            uint256 i = (which % _entries.length + k) % _entries.length;
            if (_entries[i].status != Status.Closed) return i;
        }
        return _openAny();
    }

    function _payerKey(Party memory payer) private pure returns (uint256) {
        return payer.authorizerKey == 0 ? payer.key : payer.authorizerKey;
    }

    /// A voucher for as much as the channel holds, or less, or what was signed before.
    function _voucher(Entry storage entry, uint128 amount) private returns (Claim memory) {
        amount = amount % 4 == 0 ? uint128(entry.newest) : uint128(bound(amount, 0, entry.put));
        if (amount > entry.newest) entry.newest = amount;
        return _signed(entry, amount, _payerKey(payers[entry.payer]));
    }

    function _packed(uint256 which, uint128[4] calldata amounts)
        private
        returns (bytes memory data, address payee, address token)
    {
        // Packed entries need an authorizer: the channels of the first payer have one.
        uint256 first = type(uint256).max;
        for (uint256 k = 0; k < _entries.length && first == type(uint256).max; ++k) {
            uint256 i = (which % _entries.length + k) % _entries.length;
            if (_entries[i].payer == 0) first = i;
        }
        if (first == type(uint256).max) first = _open(0, which % 3, tokens[(which >> 8) % 2], MOST, 2);
        ChannelConfig memory head = _entries[first].config;
        data = abi.encodePacked(head.token, head.payee, head.payeeAuthorizer, head.withdrawDelay);
        uint256 count;
        for (uint256 k = 0; k < _entries.length && count < 4; ++k) {
            Entry storage entry = _entries[(first + k) % _entries.length];
            if (
                entry.payer != 0 || entry.config.payee != head.payee || entry.config.token != head.token
                    || entry.config.withdrawDelay != head.withdrawDelay
            ) continue;
            Claim memory voucher = _voucher(entry, amounts[count++]);
            _credit(entry, voucher.amount);
            data = bytes.concat(data, _packedEntry(entry.config, voucher));
        }
        return (data, head.payee, head.token);
    }

    function _packedEntry(ChannelConfig memory config, Claim memory voucher) private pure returns (bytes memory) {
        bytes memory signed = voucher.signature;
        bytes32 r;
        bytes32 vs;
        assembly ("memory-safe") {
            r := mload(add(signed, 0x20))
            vs := or(mload(add(signed, 0x40)), shl(255, sub(byte(0, mload(add(signed, 0x60))), 27)))
        }
        return abi.encodePacked(
            config.payer, config.payerAuthorizer, uint64(uint256(config.salt)), uint104(voucher.amount), r, vs
        );
    }

    function _signed(Entry storage entry, uint128 amount, uint256 key) private view returns (Claim memory) {
        return Claim(entry.config, amount, _sign(key, channels.voucherDigest(entry.id, amount)));
    }

    function _sign(TestToken asset, uint256 key, bytes32 hash) private view returns (uint8, bytes32, bytes32) {
        return vm.sign(key, keccak256(abi.encodePacked(hex"1901", asset.DOMAIN_SEPARATOR(), hash)));
    }

    function _one(Claim memory entry) private pure returns (Claim[] memory claims) {
        claims = new Claim[](1);
        claims[0] = entry;
    }
}
