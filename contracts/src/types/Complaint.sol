// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

enum Stage {
    None,
    Complained,
    Answered,
    Ruled,
    Appealed,
    Over
}

/// A complaint.
/// @param deadline Until when (seconds, that second included) the next may act whose turn it is.
/// @param stage Where it is in its life. It only moves forward.
/// @param upheld The ruling, once there is one.
struct Complaint {
    address claimant;
    uint40 deadline;
    Stage stage;
    bool upheld;
    address accused;
}
