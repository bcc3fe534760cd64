// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title Who signed what.
library Signatures {
    /// Whether one side of a channel signed `digest`: its authorizer key, or where it named none, its wallet.
    /// @dev A wallet's own key is tried before EIP-1271, so an EOA cannot take back what it signed by delegating to
    /// code afterwards (EIP-7702). A contract wallet can: a payee who accepts one accepts that.
    function isSignedBySide(address authorizer, address wallet, bytes32 digest, bytes calldata signature)
        internal
        view
        returns (bool)
    {
        address signer = recover(digest, signature);
        if (authorizer != address(0)) return signer == authorizer;
        if (signer == wallet) return true;
        return wallet.code.length != 0 && SignatureChecker.isValidERC1271SignatureNowCalldata(wallet, digest, signature);
    }

    /// The key that made a signature of 65 bytes or 64 (EIP-2098); zero if there is none or its s is in the upper half.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address signer) {
        if (signature.length == 64) {
            (signer,,) = ECDSA.tryRecover(digest, bytes32(signature[:32]), bytes32(signature[32:]));
        } else {
            (signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        }
    }
}
