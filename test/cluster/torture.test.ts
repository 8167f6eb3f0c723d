import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import { checkBank } from '../sim/bank.ts'
import type { Redone } from '../sim/replay-order.ts'
import { bank } from '../torture/bank-workload.ts'
import { runCell } from '../torture/cell.ts'
import type { Fault } from '../torture/fault.ts'
import { faultOf } from '../torture/faults.ts'
import { planted } from '../torture/planted.ts'
import { tryToCatch } from '../torture/planted-play.ts'
import { domains, Stand, tenant } from '../torture/stand.ts'
import type { Kind } from '../torture/workload.ts'
import { kindOf, Sources } from '../torture/workload.ts'
import { workloadOf } from '../torture/workloads.ts'

/** A few cells of `npm run torture`, so that the harness itself stays whole, and the planted bugs that need no fault. */

let stand: Stand

beforeAll(async () => {
  stand = await Stand.open()
})

afterAll(() => stand?.close())

const sources = new Sources('20260402')

function cellOf(name: string, kind: Kind, fault: Fault, roundsForMs = 30_000) {
  return runCell({ stand, name, kind, fault, sources, faultMs: 500, roundsForMs })
}

describe('workloads under faults', () => {
  test.each([
    ['list-append', 'kill follower'],
    ['bank', 'terminate backends'],
    ['set', 'cancel waits'],
    ['payroll', 'kill gateway'],
    ['sessions', 'stop follower'],
    ['closed', 'gateway clock jumps'],
    ['canary', 'server clock jumps'],
  ])('%s under %s', async (name, fault) => {
    const { cell, violations } = await cellOf(name, workloadOf(name), faultOf(fault))
    expect(violations).toEqual([])
    expect(cell).toMatchObject({ passed: true, faultSeen: true })
  })

  test('a workload that loses money is seen', async () => {
    const steal: Kind = kindOf((stage) => {
      const honest = bank(stage)
      return {
        ...honest,
        end: async (at) => {
          const about = { tenant: 'globex-eu', action: 'torture.steal', subject: 'accounts', actor: 'thief' }
          const text = 'update left_accounts set amount_cents = amount_cents + 1 where name = $1'
          await at.transact(about, [{ domain: 'left', text, values: ['account-0'] }])
          return honest.end(at)
        },
      }
    }, checkBank)
    const { cell, violations } = await cellOf('bank', steal, faultOf('none'))
    expect(violations.map(({ kind }) => kind)).toContain('money')
    expect(cell.passed).toBe(false)
  })
})

test('a key that was used at a gateway of this process is replayed by one of another, and the other way round', async () => {
  const clients = stand.clients()
  const within = present(clients[0], 'a client')
  const over = present(
    clients.find(({ name }) => name.startsWith('process')),
    'one over HTTP',
  )
  const statements = domains.map((domain) => ({
    domain,
    text: `insert into ${domain}_sets (tenant, element) values ($1, 'keyed')`,
    values: [tenant],
    batch: true as const,
  }))
  for (const [first, second] of [
    [within, over],
    [over, within],
  ] as const) {
    const idempotencyKey = `first at ${first.name}`
    const about = { tenant, action: 'torture.add', subject: 'keyed', actor: 'test', idempotencyKey }
    const done = await first.transact(about, statements)
    const again = await second.transact(about, statements)
    expect(again).toMatchObject({ replayed: true, transactionId: done.transactionId, rows: [[], []] })
  }
})

test('a redo stream in the order in which transactions began, and not in that of their commits, is seen', async () => {
  const byBirth: Kind = kindOf((stage) => {
    const honest = bank(stage)
    return {
      ...honest,
      end: async (at) => {
        const { replays, ...rest } = await honest.end(at)
        const inOrder = (redone: readonly Redone[]) => redone.toSorted((a, b) => (a.name < b.name ? -1 : 1))
        return { ...rest, replays: replays.map((one) => ({ ...one, redone: inOrder(one.redone) })) }
      },
    }
  }, checkBank)
  const { violations } = await cellOf('bank', byBirth, faultOf('none'))
  expect(violations.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['replay order', 'replay']))
})

describe('a planted bug is caught', () => {
  test.each(planted.filter(({ fault }) => fault === 'none').map((one) => [one.bug, one] as const))(
    '%s',
    async (_, one) => {
      const { cell, by } = await tryToCatch(stand, one, '20260402')
      expect(by.length, JSON.stringify(cell)).toBeGreaterThan(0)
    },
  )
})

test('work that only succeeds while there is no fault does not pass', async () => {
  let isBroken = false
  const setTo = (broken: boolean) => () => {
    isBroken = broken
    return Promise.resolve(true)
  }
  const fault = { name: 'all is broken', inject: setTo(true), heal: async () => void (await setTo(false)()) }
  const kind = kindOf(
    () => ({
      setUp: () => Promise.resolve(),
      operate: async () => {
        await systemClock.sleep(1)
        return isBroken ? 'failed' : 'ok'
      },
      end: () => Promise.resolve([]),
    }),
    () => [],
  )
  const { cell } = await cellOf('idle', kind, fault, 1_500)
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
