-- Tables of the market. What survives a restart: agreements, what happened to them, and the sequence numbers of
-- our own offers. Demands, proposals and event queues are in memory.
-- Each statement is one migration; the list only ever grows.

CREATE TABLE market_agreement(
    agreement_id TEXT NOT NULL,
    role TEXT NOT NULL,
    owner TEXT NOT NULL,
    peer TEXT NOT NULL,
    proposal_id TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    valid_to_ns INTEGER NOT NULL,
    app_session_id TEXT,
    terms BLOB NOT NULL,
    proposed_signature BLOB,
    approved_ns INTEGER,
    approved_signature BLOB,
    committed_signature BLOB,
    ended_by TEXT,
    ended_ns INTEGER,
    reason TEXT,
    end_signature BLOB,
    confirmed_ns INTEGER,
    received INTEGER NOT NULL,
    PRIMARY KEY(agreement_id, role)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX market_agreement_proposal ON market_agreement(owner, role, proposal_id);

CREATE INDEX market_agreement_age ON market_agreement(owner, created_ns, agreement_id);

CREATE INDEX market_agreement_state ON market_agreement(state, valid_to_ns);

CREATE INDEX market_agreement_peer ON market_agreement(peer, state);

CREATE TABLE market_agreement_event(
    at_ns INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    role TEXT NOT NULL,
    kind TEXT NOT NULL,
    ended_by TEXT,
    reason TEXT,
    signature TEXT NOT NULL,
    FOREIGN KEY(agreement_id, role) REFERENCES market_agreement(agreement_id, role) ON DELETE CASCADE
) STRICT;

CREATE INDEX market_agreement_event_of ON market_agreement_event(agreement_id, role);

CREATE TABLE market_own_offer(
    owner TEXT NOT NULL,
    slot INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    issued_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    withdrawn INTEGER NOT NULL,
    PRIMARY KEY(owner, slot)
) STRICT, WITHOUT ROWID;
