import { afterEach, expect, test, vi } from 'vitest'
import { newTimeOrderedUuid } from './random.ts'

afterEach(() => {
  vi.useRealTimers()
})

const bornMsOf = (id: string) => Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16)

test('ids sort by birth, also where the wall stepped back a little; a wall that was set right is followed', () => {
  const startMs = Date.now()
  vi.useFakeTimers({ toFake: ['Date'], now: startMs })
  const ids = [newTimeOrderedUuid(), newTimeOrderedUuid()]
  vi.setSystemTime(startMs - 250)
  ids.push(newTimeOrderedUuid())
  vi.setSystemTime(startMs + 1)
  ids.push(newTimeOrderedUuid())
  expect(ids).toEqual(ids.toSorted())
  expect(new Set(ids).size).toBe(4)
  expect(bornMsOf(ids[3] ?? '')).toBe(startMs + 1)

  vi.setSystemTime(startMs - 5_000)
  expect(bornMsOf(newTimeOrderedUuid())).toBe(startMs - 5_000)
})
