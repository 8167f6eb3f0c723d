import { expect, test } from 'vitest'
import { waitingFindings } from './waiting-findings.ts'

const since = '2026-04-02T10:00:05.120Z'
const waiting = { shard: 'eu-west/payroll', events: 1, isMore: false, since }

test('events that wait for long are told, how many and since when; those that are on their way are not', () => {
  const views = [waiting, { ...waiting, events: 10_500, isMore: true }]
  expect(waitingFindings(views, Date.parse(since) + 59_999)).toEqual([])
  const rest = `of eu-west/payroll not delivered, the first committed at ${since}: look at the receiver, and at a gateway of that jurisdiction`
  expect(waitingFindings(views, Date.parse(since) + 60_000)).toEqual([
    { what: 'outbox', status: 'warning', detail: `1 event ${rest}` },
    { what: 'outbox', status: 'warning', detail: `10500 events or more ${rest}` },
  ])
})
