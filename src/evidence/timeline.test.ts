import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toHlc } from '../hlc/hlc.ts'
import type { TimelineEntry } from './timeline.ts'
import { compareEntries, mergeTimelines } from './timeline.ts'

function stamped(timestamp: number, id: string, shards: readonly string[] = ['eu-west/payroll']): TimelineEntry {
  const action = { tenant: 'globex-eu', action: 'payroll.approve', subject: 'apr-2026', actor: 'manager' }
  const commitTimestamp = toHlc(BigInt(timestamp))
  return { name: id, transactionId: id, commitTimestamp, ...action, shards, attributed: true }
}

function breakGlass(after: number, name: string): TimelineEntry {
  const nobody = { tenant: null, action: null, subject: null, actor: null, transactionId: null }
  return {
    name,
    commitTimestamp: toHlc(BigInt(after)),
    ...nobody,
    shards: [name.split('@')[0] ?? ''],
    attributed: false,
  }
}

async function* history(entries: readonly TimelineEntry[]) {
  for (const entry of entries) yield await Promise.resolve(entry)
}

async function merged(...histories: readonly TimelineEntry[][]): Promise<TimelineEntry[]> {
  const all: TimelineEntry[] = []
  for await (const entry of mergeTimelines(histories.map(history))) all.push(entry)
  return all
}

describe('V5: the merged history', () => {
  test('has a transaction of several shards once, as its home tells it', async () => {
    const atHome = stamped(5, 'b', ['eu-west/payroll', 'us-east/treasury'])
    const atParticipant = stamped(5, 'b', ['us-east/treasury'])
    expect(await merged([stamped(1, 'a'), atHome], [atParticipant, stamped(9, 'c')])).toEqual([
      stamped(1, 'a'),
      atHome,
      stamped(9, 'c'),
    ])
    expect(await merged([atParticipant], [atHome])).toEqual([atHome])
  })

  test('keeps two transactions of one timestamp, by id', async () => {
    expect((await merged([stamped(5, 'b')], [stamped(5, 'a')])).map(({ name }) => name)).toEqual(['a', 'b'])
  })

  test('puts an unattributed commit behind the stamp before it, and several in the order of the log', async () => {
    const names = ['us-east/treasury@0/FFFFFF0', 'us-east/treasury@0/10000000', 'us-east/treasury@1/10']
    const entries = await merged(
      names.map((name) => breakGlass(5, name)),
      [stamped(5, 'a'), stamped(6, 'b')],
    )
    expect(entries.map(({ name }) => name)).toEqual(['a', ...names, 'b'])
  })

  test('refuses a history that is not in order: that is a defect', async () => {
    await expect(merged([stamped(2, 'b'), stamped(1, 'a')])).rejects.toThrow('a history is in order')
  })

  test('of any histories is their union in order, whatever shard has what', async () => {
    const entries = fc.uniqueArray(fc.tuple(fc.nat(30), fc.string({ minLength: 1, maxLength: 2 })), {
      selector: ([, id]) => id,
      maxLength: 40,
    })
    await fc.assert(
      fc.asyncProperty(entries, fc.array(fc.nat(7), { minLength: 40, maxLength: 40 }), async (made, places) => {
        const all = made.map(([timestamp, id]) => stamped(timestamp, id)).toSorted(compareEntries)
        const shards = [1, 2, 4].map((bit) => all.filter((_, index) => (((places[index] ?? 0) % 7) + 1) & bit))
        expect(await merged(...shards)).toEqual(all)
      }),
    )
  })

  test('ends its sources when its reader stops early', async () => {
    let ended = 0
    async function* watched() {
      try {
        yield await Promise.resolve(stamped(1, 'a'))
        yield stamped(2, 'b')
      } finally {
        ended += 1
      }
    }
    for await (const entry of mergeTimelines([watched(), watched()])) {
      expect(entry.name).toBe('a')
      break
    }
    expect(ended).toBe(2)
  })
})
