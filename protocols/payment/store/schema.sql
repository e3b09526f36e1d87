-- Payment's tables. Conventions:
--   owner          one of our identities; role 'R' is its copy as requestor (payer), 'P' as provider (payee).
--                  A node may be both sides of one agreement, so both are part of every document's key.
--   *_wei          39 decimal digits with leading zeros: SQLite's integers end at 9.2 tokens. As text of equal
--                  length the amounts compare exactly in SQL; they are added up in Python.
--   *_ns           UTC nanoseconds.
--   activity_id    '' where a row is about the agreement's invoice rather than an activity.

CREATE TABLE payment_account(
    owner TEXT NOT NULL,
    platform TEXT NOT NULL,
    address TEXT NOT NULL,
    send INTEGER NOT NULL CHECK (send IN (0, 1)),
    receive INTEGER NOT NULL CHECK (receive IN (0, 1)),
    PRIMARY KEY (owner, platform, address)
) STRICT, WITHOUT ROWID;

-- What of an agreement matters for money, frozen at first use, and its totals.
CREATE TABLE payment_agreement(
    owner TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('R', 'P')),
    agreement_id TEXT NOT NULL,
    requestor_id TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    platform TEXT NOT NULL,
    payer_addr TEXT NOT NULL,
    payee_addr TEXT NOT NULL,
    session_id TEXT,
    payment_timeout_s REAL,
    due_wei TEXT NOT NULL CHECK (length(due_wei) = 39),
    accepted_wei TEXT NOT NULL CHECK (length(accepted_wei) = 39 AND accepted_wei <= due_wei),
    scheduled_wei TEXT NOT NULL CHECK (length(scheduled_wei) = 39 AND scheduled_wei <= accepted_wei),
    paid_wei TEXT NOT NULL CHECK (length(paid_wei) = 39 AND paid_wei <= scheduled_wei),
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    PRIMARY KEY (owner, role, agreement_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX payment_agreement_owed ON payment_agreement(platform, payer_addr)
    WHERE role = 'R' AND paid_wei < accepted_wei;

CREATE TABLE payment_activity(
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    activity_id TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    due_wei TEXT NOT NULL CHECK (length(due_wei) = 39),
    accepted_wei TEXT NOT NULL CHECK (length(accepted_wei) = 39 AND accepted_wei <= due_wei),
    scheduled_wei TEXT NOT NULL CHECK (length(scheduled_wei) = 39 AND scheduled_wei <= accepted_wei),
    paid_wei TEXT NOT NULL CHECK (length(paid_wei) = 39 AND paid_wei <= scheduled_wei),
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    PRIMARY KEY (owner, role, activity_id),
    FOREIGN KEY (owner, role, agreement_id) REFERENCES payment_agreement
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_activity_by_agreement ON payment_activity(owner, role, agreement_id);

CREATE TABLE payment_allocation(
    allocation_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    platform TEXT NOT NULL,
    address TEXT NOT NULL,
    total_wei TEXT NOT NULL,  -- plain decimal digits, perhaps with a minus sign: never compared in SQL
    spent_wei TEXT NOT NULL CHECK (length(spent_wei) = 39),
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    timeout_ns INTEGER NOT NULL,
    released_ns INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_allocation_live ON payment_allocation(timeout_ns) WHERE released_ns IS NULL;
CREATE INDEX payment_allocation_by_owner ON payment_allocation(owner, created_ns);

-- What an allocation has promised. Debts that wait to be paid are those with scheduled_wei < accepted_wei.
CREATE TABLE payment_expenditure(
    allocation_id TEXT NOT NULL REFERENCES payment_allocation,
    agreement_id TEXT NOT NULL,
    activity_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    accepted_wei TEXT NOT NULL CHECK (length(accepted_wei) = 39),
    scheduled_wei TEXT NOT NULL CHECK (length(scheduled_wei) = 39 AND scheduled_wei <= accepted_wei),
    payable INTEGER NOT NULL CHECK (payable IN (0, 1)),
    due_ns INTEGER NOT NULL,
    accepted_ns INTEGER NOT NULL,
    PRIMARY KEY (allocation_id, agreement_id, activity_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_expenditure_open ON payment_expenditure(owner) WHERE scheduled_wei < accepted_wei;
CREATE INDEX payment_expenditure_by_agreement ON payment_expenditure(owner, agreement_id, activity_id);

CREATE TABLE payment_debit_note(
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    debit_note_id TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    activity_id TEXT NOT NULL,
    previous_id TEXT,
    number INTEGER NOT NULL,
    total_wei TEXT NOT NULL CHECK (length(total_wei) = 39),
    usage TEXT,
    due_ns INTEGER,
    timestamp_ns INTEGER NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (owner, role, debit_note_id),
    UNIQUE (owner, role, activity_id, number),
    FOREIGN KEY (owner, role, activity_id) REFERENCES payment_activity
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_debit_note_by_time ON payment_debit_note(owner, timestamp_ns);
CREATE INDEX payment_debit_note_by_agreement ON payment_debit_note(owner, role, agreement_id);

CREATE TABLE payment_invoice(
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    invoice_id TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    activity_ids TEXT NOT NULL,  -- JSON array
    amount_wei TEXT NOT NULL CHECK (length(amount_wei) = 39),
    due_ns INTEGER NOT NULL,
    timestamp_ns INTEGER NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (owner, role, invoice_id),
    FOREIGN KEY (owner, role, agreement_id) REFERENCES payment_agreement
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_invoice_by_time ON payment_invoice(owner, timestamp_ns);
CREATE INDEX payment_invoice_by_agreement ON payment_invoice(owner, role, agreement_id);

-- time_ns is in whole microseconds and differs for all events of an owner, so it serves as a cursor.
CREATE TABLE payment_event(
    serial INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('debit_note', 'invoice')),
    document_id TEXT NOT NULL,
    event TEXT NOT NULL,
    session_id TEXT,
    detail TEXT,
    time_ns INTEGER NOT NULL,
    UNIQUE (owner, time_ns)
) STRICT;
CREATE INDEX payment_event_by_document ON payment_event(owner, role, document_id);

CREATE TABLE payment_order(
    order_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    platform TEXT NOT NULL,
    payer_addr TEXT NOT NULL,
    total_wei TEXT NOT NULL CHECK (length(total_wei) = 39),
    paid_wei TEXT NOT NULL CHECK (length(paid_wei) = 39 AND paid_wei <= total_wei),
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_order_by_owner ON payment_order(owner, created_ns);

-- Signed transactions that pay together: one multi-transfer, perhaps an approval before it. A lane is a
-- (network, sender); at most one of its batches is open.
CREATE TABLE payment_batch(
    batch_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    platform TEXT NOT NULL,
    network TEXT NOT NULL,
    sender TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'paid', 'failed', 'lost')),
    created_ns INTEGER NOT NULL,
    closed_ns INTEGER
) STRICT;
CREATE UNIQUE INDEX payment_batch_lane ON payment_batch(network, sender) WHERE state = 'open';

-- Every version of every transaction, stored before it is sent. Those with one nonce replace each other.
CREATE TABLE payment_transaction(
    tx_hash TEXT PRIMARY KEY,
    batch_id INTEGER NOT NULL REFERENCES payment_batch,
    network TEXT NOT NULL,
    sender TEXT NOT NULL,
    nonce INTEGER NOT NULL,
    kind TEXT NOT NULL,
    raw BLOB NOT NULL,
    gas_limit INTEGER NOT NULL,
    max_fee_wei TEXT NOT NULL,
    priority_fee_wei TEXT NOT NULL,
    transfers TEXT NOT NULL,  -- JSON array of [transfer_id, payee, wei]
    created_ns INTEGER NOT NULL,
    sent_ns INTEGER,
    succeeded INTEGER,
    fee_wei TEXT,
    block_number INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_transaction_by_nonce ON payment_transaction(network, sender, nonce);
CREATE INDEX payment_transaction_by_batch ON payment_transaction(batch_id);

CREATE TABLE payment_transfer(
    transfer_id TEXT PRIMARY KEY,
    order_id TEXT NOT NULL REFERENCES payment_order,
    owner TEXT NOT NULL,
    platform TEXT NOT NULL,
    network TEXT NOT NULL,
    sender TEXT NOT NULL,
    payee_addr TEXT NOT NULL,
    amount_wei TEXT NOT NULL CHECK (length(amount_wei) = 39),
    batch_id INTEGER REFERENCES payment_batch,
    tx_hash TEXT,
    created_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_transfer_waiting ON payment_transfer(network, sender) WHERE batch_id IS NULL;
CREATE INDEX payment_transfer_by_order ON payment_transfer(order_id);
CREATE INDEX payment_transfer_by_batch ON payment_transfer(batch_id);

-- The debts that an order pays, each by one transfer.
CREATE TABLE payment_order_entry(
    order_id TEXT NOT NULL REFERENCES payment_order,
    allocation_id TEXT NOT NULL REFERENCES payment_allocation,
    agreement_id TEXT NOT NULL,
    activity_id TEXT NOT NULL,
    transfer_id TEXT NOT NULL REFERENCES payment_transfer,
    owner TEXT NOT NULL,
    peer TEXT NOT NULL,
    payee_addr TEXT NOT NULL,
    invoice_id TEXT,
    debit_note_id TEXT,
    amount_wei TEXT NOT NULL CHECK (length(amount_wei) = 39),
    PRIMARY KEY (order_id, allocation_id, agreement_id, activity_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_order_entry_by_transfer ON payment_order_entry(transfer_id);
CREATE INDEX payment_order_entry_by_agreement ON payment_order_entry(owner, agreement_id);

-- One transfer as one peer takes part in it.
CREATE TABLE payment_payment(
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    payment_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    payer_id TEXT NOT NULL,
    payee_id TEXT NOT NULL,
    payer_addr TEXT NOT NULL,
    payee_addr TEXT NOT NULL,
    platform TEXT NOT NULL,
    amount_wei TEXT NOT NULL CHECK (length(amount_wei) = 39),
    tx_hash TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('seen', 'confirmed', 'final')),
    signed_bytes BLOB NOT NULL,
    signature BLOB NOT NULL,
    timestamp_ns INTEGER NOT NULL,  -- whole milliseconds, different for all payments of an owner
    confirmed_ns INTEGER,
    check_ns INTEGER,  -- when to look at the chain again; NULL: never
    PRIMARY KEY (owner, role, payment_id, peer)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX payment_payment_by_time ON payment_payment(owner, timestamp_ns);
CREATE INDEX payment_payment_by_tx ON payment_payment(platform, tx_hash, payee_addr);
CREATE INDEX payment_payment_to_check ON payment_payment(check_ns) WHERE check_ns IS NOT NULL;

CREATE TABLE payment_share(
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    payment_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    agreement_id TEXT NOT NULL,
    activity_id TEXT NOT NULL,
    allocation_id TEXT NOT NULL,  -- '' at the payee
    amount_wei TEXT NOT NULL CHECK (length(amount_wei) = 39),
    PRIMARY KEY (owner, role, payment_id, peer, agreement_id, activity_id, allocation_id),
    FOREIGN KEY (owner, role, payment_id, peer) REFERENCES payment_payment
) STRICT, WITHOUT ROWID;
CREATE INDEX payment_share_by_agreement ON payment_share(owner, agreement_id);

CREATE TABLE payment_cycle(
    owner TEXT NOT NULL,
    platform TEXT NOT NULL,
    interval_s REAL,
    cron TEXT,
    max_interval_s REAL NOT NULL,
    extra_s REAL NOT NULL,
    last_ns INTEGER,
    next_ns INTEGER NOT NULL,
    PRIMARY KEY (owner, platform)
) STRICT, WITHOUT ROWID;
