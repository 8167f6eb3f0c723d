import { HoldfastError } from 'holdfast'
import { expect, test } from 'vitest'
import type { Display, StepReport } from './story.ts'
import { Story, StoryBroken } from './story.ts'
import { arrivedTwice } from './webhooks.ts'

/** A day that cannot fail shows nothing: what makes a step, and with it the day, not hold. */

class Shown implements Display {
  readonly reports: StepReport[] = []
  begin(): void {}
  progress(): void {}
  end(_title: string, report: StepReport): void {
    this.reports.push(report)
  }
}

function newStory() {
  const display = new Shown()
  const interruption = new AbortController()
  return { story: new Story(display, interruption.signal), display, interruption }
}

test('a step whose claims hold is told in its sentences', async () => {
  const { story, display } = newStory()
  const value = await story.step('sum', 'A sum', async (tell) => {
    tell.check('two and two are four', 2 + 2 === 4)
    tell.say('Two and two')
    tell.say('are four.')
    return 4
  })
  expect(value).toBe(4)
  expect(story.ok).toBe(true)
  expect(display.reports).toMatchObject([{ name: 'sum', ok: true, detail: 'Two and two are four.' }])
})

test('one false claim fails the step and the day, and the day goes on', async () => {
  const { story } = newStory()
  await story.step('false', 'False', async (tell) => tell.check('two and two are five', false))
  await story.step('true', 'True', async (tell) => tell.check('two and two are four', true))
  expect(story.steps.map(({ ok }) => ok)).toEqual([false, true])
  expect(story.ok).toBe(false)
})

test('a day without a step does not hold', () => {
  expect(newStory().story.ok).toBe(false)
})

test('a step that throws fails, says why, and ends the day', async () => {
  const { story } = newStory()
  const step = story.step('lost', 'Lost', () =>
    Promise.reject(new HoldfastError('node_unavailable', 'nobody answers', { hint: 'start it' })),
  )
  await expect(step).rejects.toBeInstanceOf(StoryBroken)
  expect(story.steps).toMatchObject([
    { ok: false, detail: expect.stringContaining('nobody answers (start it)') as unknown },
  ])
})

test.each([
  ['the expected code', () => Promise.reject(new HoldfastError('residency_denied', 'no')), true],
  ['another code', () => Promise.reject(new HoldfastError('internal', 'no')), false],
])('a refusal with %s', async (_, run, held) => {
  const { story } = newStory()
  await story.step('refusal', 'Refusal', (tell) => tell.refused('residency_denied', 'it is refused', run))
  expect(story.ok).toBe(held)
})

test('what should be refused and is not fails the day', async () => {
  const { story } = newStory()
  const step = story.step('refusal', 'Refusal', (tell) =>
    tell.refused('residency_denied', 'it is refused', () => Promise.resolve('done')),
  )
  await expect(step).rejects.toBeInstanceOf(StoryBroken)
  expect(story.ok).toBe(false)
})

test('an interrupted day plays no further step, but the last', async () => {
  const { story, interruption } = newStory()
  interruption.abort()
  await expect(story.step('next', 'Next', () => Promise.resolve(1))).rejects.toBeInstanceOf(StoryBroken)
  expect(await story.last('stop', 'Stop', () => Promise.resolve(2))).toBe(2)
  expect(story.steps.map(({ name }) => name)).toEqual(['stop'])
})

test('a delivery that arrived twice is found', () => {
  const deliveries = ['a', 'b', 'a', 'c', 'a'].map((key) => ({ key, body: '' }))
  expect(arrivedTwice(deliveries)).toEqual(['a', 'a'])
  expect(arrivedTwice(deliveries.slice(0, 2))).toEqual([])
})
