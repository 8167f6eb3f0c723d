import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ManualClock } from '../../test/support/manual-clock.ts'
import { DelayLine } from './delay-line.ts'

type Step =
  | { readonly kind: 'put' | 'hold' | 'release' | 'tire' | 'resume' }
  | { readonly kind: 'advance'; readonly ms: number }

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 2, arbitrary: fc.constant<Step>({ kind: 'put' }) },
    fc.constantFrom<Step>({ kind: 'hold' }, { kind: 'release' }, { kind: 'tire' }, { kind: 'resume' }),
    fc.record({ kind: fc.constant('advance' as const), ms: fc.integer({ min: 1, max: 15 }) }),
  ),
  { maxLength: 40 },
)

test('K1, K2: everything comes out in order, not before the delay, and nothing while held or asked to wait', async () => {
  await fc.assert(
    fc.asyncProperty(steps, fc.constantFrom(0, 1, 10), async (all, delayMs) => {
      const clock = new ManualClock()
      const putAtMs: number[] = []
      const out: number[] = []
      let [held, tired, waiting] = [false, false, false]
      const take = (item: number) => {
        expect(held || waiting).toBe(false)
        expect(clock.monotonicMs() - (putAtMs[item] ?? Number.NaN)).toBeGreaterThanOrEqual(delayMs)
        out.push(item)
        waiting = tired
        return waiting ? 'wait' : 'more'
      }
      const line = new DelayLine<number>({ delayMs, clock, held, take })
      const step = {
        put: () => line.put(putAtMs.push(clock.monotonicMs()) - 1),
        hold: () => {
          held = true
          line.hold()
        },
        release: () => {
          held = false
          line.release()
        },
        tire: () => {
          tired = true
        },
        resume: () => {
          ;[tired, waiting] = [false, false]
          line.resume()
        },
      }
      for (const next of all) {
        if (next.kind === 'advance') await clock.advance(next.ms)
        else step[next.kind]()
        // What is due and may come out is out.
        const due = putAtMs.filter((atMs) => atMs + delayMs <= clock.monotonicMs()).length
        if (!held && !waiting) expect(out.length).toBe(due)
      }
      step.resume()
      step.release()
      await clock.advance(delayMs)
      expect(out).toEqual([...putAtMs.keys()])
      expect(clock.sleeping).toBe(0)
    }),
  )
})

test('a closed line drops what is in it and sleeps no more', async () => {
  const clock = new ManualClock()
  const out: string[] = []
  const line = new DelayLine<string>({
    delayMs: 10,
    clock,
    held: false,
    take: (item) => {
      out.push(item)
      return 'more'
    },
  })
  line.put('one')
  line.close()
  line.put('two')
  await clock.advance(100)
  expect(out).toEqual([])
  expect(clock.sleeping).toBe(0)
})
