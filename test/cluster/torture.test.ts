import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Operation } from '../sim/history.ts'
import { checkListAppend } from '../sim/list-append.ts'
import type { TestFleet } from '../support/fleet.ts'
import { bank } from '../torture/bank-workload.ts'
import { runCell } from '../torture/cell.ts'
import { faultsOf } from '../torture/faults.ts'
import { listAppend } from '../torture/list-append-workload.ts'
import { openStand, regions } from '../torture/stand.ts'
import type { Workload } from '../torture/workload.ts'
import { Sources } from '../torture/workload.ts'

/** A few cells of `npm run torture`, so that the harness itself stays whole. */

let fleet: TestFleet
let gateways: Gateway[]

beforeAll(async () => {
  fleet = await openStand()
  gateways = await Promise.all(regions.map((region) => fleet.gateway(region)))
})

afterAll(() => fleet?.close())

const sources = new Sources('20260402')

function cellOf(name: string, workload: Workload, faultName: string) {
  const fault = faultsOf().find((one) => one.name === faultName)
  if (fault === undefined) throw new Error(`no fault ${faultName}`)
  return runCell({ fleet, gateways, name, workload, fault, sources, faultMs: 500, roundsForMs: 30_000 })
}

describe('money and lists over two shards', () => {
  test('a follower is killed while lists are appended to', async () => {
    const { cell, violations } = await cellOf('list-append', listAppend(sources), 'kill follower')
    expect(violations).toEqual([])
    expect(cell).toMatchObject({ passed: true, faultSeen: true })
  })

  test('backends are terminated while money moves', async () => {
    const { cell, violations } = await cellOf('bank', bank(sources), 'terminate backends')
    expect(violations).toEqual([])
    expect(cell).toMatchObject({ passed: true, faultSeen: true })
  })

  test('a workload that loses money is seen', async () => {
    const honest = bank(sources)
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

test('work that only succeeds while there is no fault does not pass', async () => {
  let isBroken = false
  const setTo = (broken: boolean) => () => {
    isBroken = broken
    return Promise.resolve(true)
  }
  const fault = { name: 'all is broken', inject: setTo(true), heal: async () => void (await setTo(false)()) }
  const workload: Workload = {
    setUp: () => Promise.resolve(),
    operate: async () => {
      await systemClock.sleep(1)
      return isBroken ? 'failed' : 'ok'
    },
    check: () => Promise.resolve([]),
  }
  const options = { fleet, gateways, name: 'idle', workload, fault, sources, faultMs: 100, roundsForMs: 1_500 }
  const { cell } = await runCell(options)
  expect(cell.ok).toBeGreaterThan(100)
  expect(cell).toMatchObject({ passed: false, faultSeen: true })
})

test('a seed gives each client and fault what it gave them before, whoever else draws', () => {
  const drawn = (others: boolean) => {
    const again = new Sources('7 bank none 0')
    return Array.from({ length: 20 }, () => {
      if (others) again.of('client 1')(10)
      return again.of('client 0')(1_000)
    })
  }
  expect(drawn(true)).toEqual(drawn(false))
  expect(new Set(drawn(false)).size).toBeGreaterThan(10)
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
