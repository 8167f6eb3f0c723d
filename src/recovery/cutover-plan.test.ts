import { describe, expect, test } from 'vitest'
import {
  branch,
  collected,
  decision,
  history,
  home,
  insert,
  payroll,
  transactionId,
  treasury,
  unattributed,
} from '../../test/support/redo-values.ts'
import type { Epoch, HistoryId } from '../directory/topology.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { absentBehind } from './cut.ts'
import { compensationsFor, leftOutOf, planCutover, requireNoLoss } from './cutover-plan.ts'
import type { Frozen, RestoreRequest } from './restore-plan.ts'
import { planCatchUp } from './restore-plan.ts'

const row = insert('public.runs', { id: '1' })
const histories = [
  history(payroll, [home(1, 10n, [], [treasury]), home(2, 20n, [])]),
  history(treasury, [decision(1, 10n, 5n), branch(1, 10n, [row]), unattributed(10n, []), home(3, 30n, [])]),
]
const frozen: Omit<Frozen, 'request'> = {
  histories,
  shapes: new Map([payroll, treasury].map((shard) => [shard, new Map()])),
  timelines: new Map(),
}
const stops = new Map([payroll, treasury].map((shard) => [shard, { kind: 'before', lsn: 100n as Lsn } as const]))
const standing = (shard: typeof payroll, isAlive = true) => ({ shard, epoch: 4 as Epoch, isAlive })

function plan(without: string[], target: RestoreRequest['target'] = { kind: 'before', transaction: transactionId(1) }) {
  return planCatchUp({ ...frozen, request: { target, without } }, stops)
}

const planned = async (name: string, alive = true) =>
  planCutover(await plan([name]), [standing(payroll), standing(treasury, alive)], () => 'h' as HistoryId)

describe('what a cutover does', () => {
  test('R9: it reaches to the end of what is archived by now, whatever the target was', async () => {
    const { shards, cut } = await plan([transactionId(1)])
    const steps = [...shards.values()].map(({ stop, history: one }) => collected(absentBehind(stop, one, cut.wanted)))
    expect((await Promise.all(steps)).flat()).toHaveLength(3)
  })

  test('a shard that loses nothing is kept at the epoch of the fence, the others are switched to the one behind it', async () => {
    expect(await planned('us-east/treasury@0/78')).toEqual([
      { kind: 'keep', shard: payroll, epoch: 5 },
      { kind: 'switch', shard: treasury, epoch: 6, historyId: 'h' },
    ])
    expect((await planned(transactionId(1))).map(({ kind }) => kind)).toEqual(['switch', 'switch'])
  })

  test('a shard whose primary is gone is switched although it loses nothing', async () => {
    expect((await planned(transactionId(2), false)).map(({ kind }) => kind)).toEqual(['switch', 'switch'])
  })

  test('what is left out is named once, commits of the platform aside; tokens are told ids', async () => {
    const { names, ids } = await leftOutOf(await plan([transactionId(1), 'us-east/treasury@0/78']))
    expect(names).toEqual([transactionId(1), 'us-east/treasury@0/78'])
    expect(ids).toEqual([transactionId(1)])
  })

  test('R9: an environment that ends at its target is a loss that needs a word', async () => {
    const prefix = await plan([], { kind: 'before', transaction: transactionId(2) })
    await expect(requireNoLoss(prefix, false)).rejects.toThrow('would lose 2 transactions')
    await requireNoLoss(prefix, true)
    await requireNoLoss(await plan([], { kind: 'end' }), false)
    await requireNoLoss(await plan([transactionId(1)]), false)
  })

  test('effects that left and whose cause is gone are listed once; certainly wins over possibly', async () => {
    const delivery = (event: string, of: number, state: string) => ({
      event_id: event,
      transaction_id: transactionId(of),
      tenant: 'globex-eu',
      name: 'payroll.approved',
      state,
    })
    const journal = [
      delivery('a', 1, 'sending'),
      delivery('a', 1, 'delivered'),
      delivery('b', 1, 'sending'),
      delivery('c', 1, 'failed'),
      delivery('d', 2, 'delivered'),
    ]
    const found = compensationsFor([transactionId(1)], journal)
    expect(found.map(({ eventId, delivered }) => [eventId, delivered])).toEqual([
      ['a', 'certainly'],
      ['b', 'possibly'],
    ])
  })

  test('A4: a hole in the stream behind the stop refuses it', async () => {
    const holed = histories.map((one) => ({ ...one, redo: { ...one.redo, from: 105n as Lsn } }))
    const request = { target: { kind: 'end' }, without: [] } as const
    await expect(planCatchUp({ ...frozen, histories: holed, request }, stops)).rejects.toThrow(
      'has a hole between 0/64 and 0/69',
    )
  })
})
