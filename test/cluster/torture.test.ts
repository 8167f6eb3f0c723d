import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Operation } from '../sim/history.ts'
import { checkListAppend } from '../sim/list-append.ts'
import { numbersFrom } from '../sim/commit-play.ts'
import type { TestFleet } from '../support/fleet.ts'
import { bank } from '../torture/bank-workload.ts'
import { runCell } from '../torture/cell.ts'
import { faultsOf } from '../torture/faults.ts'
import { listAppend } from '../torture/list-append-workload.ts'
import { openStand, regions } from '../torture/stand.ts'
import type { Workload } from '../torture/workload.ts'

/** A few cells of `npm run torture`, so that the harness itself stays whole. */

let fleet: TestFleet
let gateways: Gateway[]

beforeAll(async () => {
  fleet = await openStand()
  gateways = await Promise.all(regions.map((region) => fleet.gateway(region)))
})

afterAll(() => fleet?.close())

const below = (() => {
  const next = numbersFrom(20_260_402)
  return (limit: number) => next() % limit
})()

function cellOf(name: string, workload: Workload, faultName: string) {
  const fault = faultsOf().find((one) => one.name === faultName)
  if (fault === undefined) throw new Error(`no fault ${faultName}`)
  return runCell({ fleet, gateways, name, workload, fault, below, faultMs: 500 })
}

describe('money and lists over two shards', () => {
  test('a follower is killed while lists are appended to', async () => {
    const { cell, violations } = await cellOf('list-append', listAppend(below), 'kill follower')
    expect(violations).toEqual([])
    expect(cell).toMatchObject({ passed: true, faultSeen: true })
  })

  test('backends are terminated while money moves', async () => {
    const { cell, violations } = await cellOf('bank', bank(below), 'terminate backends')
    expect(violations).toEqual([])
    expect(cell).toMatchObject({ passed: true, faultSeen: true })
  })

  test('a workload that loses money is seen', async () => {
    const honest = bank(below)
    const steal: Workload = {
      ...honest,
      check: async (gateway) => {
        const about = { tenant: 'globex-eu', action: 'torture.steal', subject: 'accounts', actor: 'thief' }
        await gateway.transact(about, (tx) =>
          tx.query('left', 'update left_accounts set amount_cents = amount_cents + 1 where name = $1', ['account-0']),
        )
        return honest.check(gateway)
      },
    }
    const { cell, violations } = await cellOf('bank', steal, 'none')
    expect(violations.map(({ kind }) => kind)).toContain('money')
    expect(cell.passed).toBe(false)
  })
})

test('a read that goes back in its session is seen', () => {
  const at = (index: number, values: number[]): Operation => ({
    index,
    client: 0,
    invokedAt: index * 2,
    completedAt: index * 2 + 1,
    outcome: 'committed',
    micro: index === 0 ? [{ kind: 'append', key: 'x', value: 1 }] : [{ kind: 'read', key: 'x', values }],
  })
  expect(checkListAppend([at(0, []), at(1, [1]), at(2, [])]).map(({ kind }) => kind)).toContain('G-single-session')
})
