"""The audit finds every figure that does not follow from documents and payments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from protocols.payment.store.form import wei
from tests.protocols.payment.world import GLM, deal

if TYPE_CHECKING:
    from trio.testing import MockClock

TAMPERINGS = {
    "UPDATE payment_agreement SET due_wei = ?": 9 * GLM,
    "UPDATE payment_agreement SET paid_wei = ?": GLM,
    "UPDATE payment_activity SET paid_wei = ?": GLM,
    "UPDATE payment_activity SET due_wei = ?": 3 * GLM,
    "UPDATE payment_allocation SET spent_wei = ?": 4 * GLM,
    "UPDATE payment_expenditure SET accepted_wei = ? WHERE activity_id = ''": 4 * GLM,
    "UPDATE payment_order SET paid_wei = ?": 4 * GLM,
    "UPDATE payment_order SET total_wei = ?": 6 * GLM,
    "UPDATE payment_share SET amount_wei = ? WHERE activity_id = ''": 2 * GLM,
    "UPDATE payment_invoice SET amount_wei = ?": 7 * GLM,
}


@pytest.mark.parametrize("statement", TAMPERINGS)
async def test_tampering_is_found(statement: str, autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(2 * GLM), 2 * GLM)
        invoice = await d.accepted_invoice(5 * GLM)
        await d.settled(invoice)
        await d.clean()
        audit = await d.r.audit(d.requestor.id)
        assert (audit.agreements, audit.documents, audit.payments) == (1, 2, 1)
        assert d.requestor.memory is not None
        await d.requestor.memory.write(lambda c: c.execute(statement, (wei(TAMPERINGS[statement]),)))
        audit = await d.r.audit()
        assert not audit.clean
        assert all(difference.stored != difference.computed for difference in audit.differences)
