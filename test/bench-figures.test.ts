import { expect, test } from 'vitest'
import { burstFigures, type Seen } from '../bench/payroll-burst.ts'

const served = (count: number): Seen[] => Array.from({ length: count }, () => ({ byFollower: true, waitedMs: 3 }))
const refused = (count: number): Seen[] =>
  Array.from({ length: count }, () => ({ byFollower: false, waitedMs: Number.POSITIVE_INFINITY }))

const p95 = (seen: readonly Seen[]) => burstFigures(seen, 'here').find(({ name }) => name.endsWith('p95 wait'))

test('a read of a burst that found no node in time does not pass for one that waited', () => {
  expect(p95([...served(96), ...refused(4)])).toMatchObject({ value: 3, ok: true })
  expect(p95([...served(94), ...refused(6)])).toMatchObject({ ok: false })
  expect(burstFigures(refused(10), 'here').filter(({ ok }) => ok)).toMatchObject([{ value: 10 }])
})
